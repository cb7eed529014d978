"""What a recipe says of a run, and what becomes of it: steps, schedule, optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
from flax import nnx

from litv2_jax.settings import (
    ConfigError,
    Count,
    OneOf,
    PathText,
    Range,
    Text,
    check_batch_size,
    parse,
)
from litv2_jax.training.optimizer import (
    OptimizerSettings,
    create_optimizer,
    create_schedules,
)
from litv2_jax.training.step import (
    TrainState,
    create_abstract_model,
    create_graphdef,
    make_train_step,
    split_state,
)
from litv2_jax.training.task import Task

# What `nnx.view` of a model knows to compute a second time.
REMAT = ("none", "blocks")

# Steps are counted in 32 bits.
_MAX_STEPS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What a recipe says of the run itself, whatever the task.

    Attributes:
        task: Name of the task.
        seed: Of the weights, the order of the data and everything else that is drawn.
        epochs: Length of the run.
        batch_size: Examples per update, over all devices.
        accumulation_steps: Equal parts of a batch that are computed one after the
            other, to save memory; each has BatchNorm statistics of its own.
        batch_norm_group_size: Examples whose BatchNorm statistics are taken together;
            0 takes the batch whole, 128 is as the original's GPUs did.
        remat: What is computed a second time to save memory: none or blocks.
        eval_every_epochs: Epochs between evaluations, each of which saves a checkpoint.
        checkpoint_every_steps: Updates between checkpoints; 0 saves only those.
        log_every_steps: Updates between the rows of `metrics.jsonl`.
        max_skipped_steps: Updates in a row that may be left out, their loss or gradient
            not being finite.
        weights: Checkpoint or run to start from, or to take the backbone of if its
            model is of another kind; "" starts from scratch.
        optimizer: See there.
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
    weights: PathText
    optimizer: OptimizerSettings

    @classmethod
    def split(cls, config: Mapping[str, Any]) -> tuple["RunSettings", dict[str, Any]]:
        """Returns the settings of the run, and those of a recipe that are the task's.

        Raises:
            ConfigError: If one of the run is missing or of the wrong type.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        run = parse(cls, {k: v for k, v in config.items() if k in names})
        return run, {k: v for k, v in config.items() if k not in names}

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


class Plan:
    """The recipe in steps.

    Attributes:
        num_steps: Updates of the whole run.
        eval_every: Updates between evaluations.
        schedule: Learning rate by step.
        optimizer: From `create_optimizer`.
    """

    def __init__(self, task: Task, settings: RunSettings):
        if task.steps_per_epoch < 1:
            raise ConfigError(
                f"config.batch_size is {settings.batch_size}, more than the "
                f"{task.num_train_examples} training examples there are."
            )
        self.num_steps = max(1, round(settings.epochs * task.steps_per_epoch))
        if self.num_steps > _MAX_STEPS:
            raise ConfigError(
                f"config.epochs is {settings.epochs:g}, which makes "
                f"{self.num_steps:,} steps; there may be {_MAX_STEPS:,}."
            )
        self.eval_every = max(
            1, round(settings.eval_every_epochs * task.steps_per_epoch)
        )
        schedules = create_schedules(
            settings.optimizer,
            batch_size=settings.batch_size,
            steps_per_epoch=task.steps_per_epoch,
            num_steps=self.num_steps,
        )
        self.schedule = schedules[0]
        self.optimizer = create_optimizer(settings.optimizer, schedules)

    def evaluates_at(self, step: int) -> bool:
        """Returns whether an evaluation is due after so many updates."""
        return step > 0 and (step % self.eval_every == 0 or step == self.num_steps)

    def create_state(self, task: Task, settings: RunSettings) -> TrainState:
        """Returns the state of a run that has not begun, with new weights."""
        init_key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        return TrainState.create(task.build(nnx.Rngs(init_key)), self.optimizer)

    def create_abstract_state(self, task: Task) -> TrainState:
        """Returns shapes for the arrays of `create_state`, which takes seconds more."""
        params, stats = split_state(create_abstract_model(task))
        return jax.eval_shape(
            lambda params, stats: TrainState.begin(params, stats, self.optimizer),
            params,
            stats,
        )

    def create_step(
        self,
        task: Task,
        settings: RunSettings,
        out_sharding: jax.sharding.Sharding | None = None,
    ) -> Any:
        """Returns the compiled step, `make_train_step`."""
        graphdef = create_graphdef(
            task,
            deterministic=False,
            use_running_average=False,
            batch_norm_group_size=settings.batch_norm_group_size,
            remat=settings.remat,
        )
        return make_train_step(
            graphdef,
            task,
            self.optimizer,
            self.schedule,
            accumulation_steps=settings.accumulation_steps,
            out_sharding=out_sharding,
        )
