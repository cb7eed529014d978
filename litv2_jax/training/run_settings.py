"""Settings of a run, whatever its task."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from litv2_jax.settings import (
    REMAT,
    ConfigError,
    Count,
    OneOf,
    Range,
    Text,
    check_batch_size,
    parse,
)
from litv2_jax.training.optimizer import OptimizerSettings
from litv2_jax.training.trackers import TRACKERS
from litv2_jax.weights import HEADS, WeightsText


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Sections and values of a recipe that belong to no task.

    Attributes:
        task: Name of the task.
        seed: Seed of initialisation, data order and all other randomness.
        epochs: Length of the run.
        batch_size: Examples per step, over all devices.
        accumulation_steps: Equal parts of a batch that are computed one after the
            other, to save memory; each has separate BatchNorm statistics.
        batch_norm_group_size: Examples whose BatchNorm statistics are taken together;
            0 for the whole batch, 128 as on the original's GPUs.
        freeze_batch_norm: Whether BatchNorm uses its running statistics in training as
            well, and leaves them as they are.
        remat: Activations to rematerialise, to save memory: `none` or those of
            `blocks`.
        eval_every_epochs: Epochs between evaluations, each of which saves a checkpoint.
        checkpoint_every_steps: Steps between checkpoints; 0 saves only those.
        log_every_steps: Steps between the rows of `metrics.jsonl`.
        max_skipped_steps: Steps in a row that may be skipped because their loss or
            gradient is not finite.
        weights: What to start from: a run, a checkpoint, a PyTorch file, a folder from
            `save_pretrained`, or published weights; of another kind of model the
            backbone is taken. "" starts from scratch.
        weights_head: Where the classes of these weights are others, in number or in
            name: `new` starts with a new head; `keep` keeps theirs, and another number
            is an error.
        ema_decay: Share that moving averages of the weights keep at each step, less in
            the first steps; they are what is evaluated and served. 0 keeps none.
        trackers: What gets the numbers and drawings beside `metrics.jsonl` and
            `report/`: `tensorboard`, `wandb`, both or none.
        optimizer: See `OptimizerSettings`.
    """

    task: Text
    seed: Annotated[int, Range(0, 2**32 - 1)]
    epochs: Annotated[float, Range(above=0, most=10**6)]
    batch_size: Annotated[int, Range(above=0, most=2**24)]
    accumulation_steps: Annotated[int, Range(above=0, most=2**24)]
    batch_norm_group_size: Count
    remat: Annotated[str, OneOf(*REMAT)]
    eval_every_epochs: Annotated[float, Range(above=0, most=10**6)]
    checkpoint_every_steps: Count
    log_every_steps: Annotated[int, Range(above=0, most=2**31 - 1)]
    max_skipped_steps: Count
    weights: WeightsText
    optimizer: OptimizerSettings
    freeze_batch_norm: bool = False
    ema_decay: Annotated[float, Range(0, below=1)] = 0.0
    weights_head: Annotated[str, OneOf(*HEADS)] = "new"
    trackers: tuple[Annotated[str, OneOf(*TRACKERS)], ...] = ("tensorboard",)

    @classmethod
    def split(cls, config: Mapping[str, Any]) -> tuple["RunSettings", dict[str, Any]]:
        """Returns the settings of the run, and those of a recipe that are the task's.

        Raises:
            ConfigError: If one of the run is missing or of the wrong type.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        run = parse(cls, {k: v for k, v in config.items() if k in names})
        return run, {k: v for k, v in config.items() if k not in names}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns the values of the settings that a recipe need not have."""
        fields = dataclasses.fields(cls)
        return {
            field.name: field.default
            for field in fields
            if field.default is not dataclasses.MISSING
        }

    def check(self, num_devices: int) -> None:
        """Raises ConfigError if values contradict each other or the devices."""
        check_batch_size(self.batch_size, num_devices, "config.batch_size")
        self._check_parts(num_devices)
        self.optimizer.check(self.epochs)

    def _check_parts(self, num_devices: int) -> None:
        part, rest = divmod(self.batch_size, self.accumulation_steps)
        if rest or part % num_devices:
            raise ConfigError(
                f"config.batch_size is {self.batch_size}, whose parts "
                f"(config.accumulation_steps is {self.accumulation_steps}) "
                f"{num_devices} devices cannot share equally: use a multiple of "
                f"{self.accumulation_steps * num_devices}."
            )
        group = min(self.batch_norm_group_size, part)
        if group and part % group:
            raise ConfigError(
                f"config.batch_norm_group_size is {group}, which does not divide the "
                f"{part} examples that are computed at a time."
            )
