"""Trains any task, and picks up where an interrupted run stopped."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from litv2_jax.settings import (
    ConfigError,
    check_batch_size,
    check_not_negative,
    check_positive,
)
from litv2_jax.training.checkpoint import Checkpoints, load_weights
from litv2_jax.training.devices import Devices, StopRequest
from litv2_jax.training.evaluation import Evaluator
from litv2_jax.training.log import Log, announce
from litv2_jax.training.optimizer import (
    OptimizerSettings,
    create_optimizer,
    create_schedules,
)
from litv2_jax.training.step import TrainState, create_graphdef, make_train_step
from litv2_jax.training.task import Batch, Task

# What `nnx.view` of a model knows to compute a second time.
REMAT = ("none", "blocks")

# How many images to draw as training sees them.
_NUM_EXAMPLES = 16


class TrainingError(RuntimeError):
    """A run that cannot go on; its message says why."""


class StoppedError(RuntimeError):
    """A run that was asked to stop, and saved what it had; start it again."""


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
        weights: Checkpoint or run to start from; "" starts from scratch.
        optimizer: See there.
    """

    task: str
    seed: int
    epochs: float
    batch_size: int
    accumulation_steps: int
    batch_norm_group_size: int
    remat: str
    eval_every_epochs: float
    checkpoint_every_steps: int
    log_every_steps: int
    max_skipped_steps: int
    weights: str
    optimizer: OptimizerSettings

    def check(self, num_devices: int) -> None:
        """Raises ConfigError if a value is impossible."""
        for name in (
            "epochs",
            "accumulation_steps",
            "eval_every_epochs",
            "log_every_steps",
        ):
            check_positive(getattr(self, name), f"config.{name}")
        for name in (
            "batch_norm_group_size",
            "checkpoint_every_steps",
            "max_skipped_steps",
        ):
            check_not_negative(getattr(self, name), f"config.{name}")
        check_batch_size(self.batch_size, num_devices, "config.batch_size")
        self._check_parts(num_devices)
        if self.remat not in REMAT:
            raise ConfigError(
                f"config.remat is {self.remat!r}; use {' or '.join(REMAT)}."
            )
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


def fit(
    task: Task, settings: RunSettings, workdir: Path, devices: Devices | None = None
) -> dict[str, float]:
    """Trains to the end, resuming where the workdir's latest checkpoint stands.

    Args:
        task: The problem.
        settings: The recipe.
        workdir: Gets `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `report/`.
        devices: Where to train; everywhere by default.

    Returns:
        The last evaluation.

    Raises:
        ConfigError: If a checkpoint does not fit the model.
        StoppedError: If SIGTERM or Ctrl-C asked to stop; a checkpoint has been saved.
        TrainingError: If too many losses in a row are not finite.
    """
    devices = devices or Devices()
    plan = Plan(task, settings)
    with (
        StopRequest() as stop,
        Checkpoints(
            workdir / "checkpoints", task.best, task.description
        ) as checkpoints,
    ):
        state, results = _begin(task, settings, plan, devices, checkpoints)
        start_step = int(state.step)
        if start_step >= plan.num_steps and results:
            announce(f"The run in {workdir} is finished, at step {start_step}.")
            return results
        with Log(
            workdir,
            start_step=start_step,
            num_steps=plan.num_steps,
            batch_size=settings.batch_size,
            every=settings.log_every_steps,
        ) as log:
            trainer = _Trainer(task, settings, plan, devices, checkpoints, log, stop)
            return trainer.run(state, results)


class Plan:
    """The recipe in steps.

    Attributes:
        num_steps: Updates of the whole run.
        eval_every: Updates between evaluations.
        schedule: Learning rate by step.
        optimizer: From `create_optimizer`.
    """

    def __init__(self, task: Task, settings: RunSettings):
        self.num_steps = max(1, round(settings.epochs * task.steps_per_epoch))
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

    def create_step(self, task: Task, settings: RunSettings) -> Any:
        """Returns the compiled update, `make_train_step`."""
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
        )


def _begin(
    task: Task,
    settings: RunSettings,
    plan: Plan,
    devices: Devices,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any."""
    like = jax.eval_shape(lambda: plan.create_state(task, settings))
    restored = checkpoints.restore(devices.replicate_shapes(like))
    if restored:
        announce(f"Found a checkpoint of step {int(restored[0].step)}.")
        return restored
    state = plan.create_state(task, settings)
    if settings.weights:
        weights = Path(settings.weights)
        params, stats = load_weights(weights, state.params, state.stats)
        state = dataclasses.replace(state, params=params, stats=stats)
    return devices.replicate(state), {}


class _Trainer:
    """Runs the steps that are left."""

    def __init__(
        self,
        task: Task,
        settings: RunSettings,
        plan: Plan,
        devices: Devices,
        checkpoints: Checkpoints,
        log: Log,
        stop: StopRequest,
    ):
        self._task = task
        self._settings = settings
        self._plan = plan
        self._devices = devices
        self._checkpoints = checkpoints
        self._log = log
        self._stop = stop
        self._evaluator = Evaluator(task, devices)
        self._num_skipped = 0
        key = jax.random.fold_in(jax.random.key(settings.seed), 1)
        self._key = devices.replicate(key)

    def run(self, state: TrainState, results: dict[str, float]) -> dict[str, float]:
        """Trains from a state, of which an evaluation may be known, to the end."""
        start_step = int(state.step)
        if self._plan.evaluates_at(start_step) and not results:
            # The run was stopped before it had evaluated what it saved.
            results = self._save(start_step, state, is_stopping=False)
        train_step = self._plan.create_step(self._task, self._settings)
        latest = None
        with contextlib.closing(iter(self._task.train_batches(start_step))) as batches:
            for step in range(start_step + 1, self._plan.num_steps + 1):
                batch = next(batches)
                if step == 1:
                    self._draw_examples(batch)
                batch = self._devices.share_batch(batch)
                state, scalars = train_step(state, batch, self._key)
                # The numbers of the step before are fetched while this one runs.
                if latest:
                    self._record(*latest)
                latest = step, scalars
                is_stopping = self._stop.reached(step)
                if is_stopping or self._saves_at(step):
                    self._record(*latest)
                    latest = None
                    results = self._save(step, state, is_stopping)
        self._log.report(
            lambda path: self._task.draw(*self._evaluator.example, path), results
        )
        return results

    def _saves_at(self, step: int) -> bool:
        every = self._settings.checkpoint_every_steps
        return self._plan.evaluates_at(step) or bool(every and step % every == 0)

    def _save(
        self, step: int, state: TrainState, is_stopping: bool
    ) -> dict[str, float]:
        """Evaluates if it is time to, saves, and stops the run if it is to stop."""
        self._log.write_means(step)
        results = {}
        if self._plan.evaluates_at(step) and not is_stopping:
            results = self._evaluator(state.params, state.stats, self._stop)
        if results:
            epoch = step / self._task.steps_per_epoch
            self._log.write_evaluation(step, epoch, results)
        self._checkpoints.save(step, state, results)
        if is_stopping or self._stop.is_received:
            raise StoppedError(
                f"Stopped as asked, with a checkpoint of step {step} of "
                f"{self._plan.num_steps}. Start the same command again to go on."
            )
        return results

    def _record(self, step: int, scalars: Mapping[str, jax.Array]) -> None:
        """Logs an update.

        Raises:
            TrainingError: If too many in a row have been left out.
        """
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        if not values.pop("skipped"):
            self._num_skipped = 0
            self._log.write_step(step, values)
            return
        self._num_skipped += 1
        self._log.write_skipped(step, values)
        if self._num_skipped > self._settings.max_skipped_steps:
            raise TrainingError(
                f"At step {step} the loss is {values['loss']} and the gradient norm "
                f"{values['grad_norm']}, at a learning rate of "
                f"{values['learning_rate']:.3g}; {self._num_skipped} updates in a row "
                "have been left out for that, more than config.max_skipped_steps. None "
                "of them is in the last checkpoint: start again from it with a lower "
                "learning rate."
            )

    def _draw_examples(self, batch: Batch) -> None:
        """Draws some examples as training sees them, of this process alone."""
        if jax.process_index() == 0:
            some = {name: np.asarray(x[:_NUM_EXAMPLES]) for name, x in batch.items()}
            some = jax.jit(self._task.augment)(some, jax.random.key(0))
            self._log.draw("augmented", lambda path: self._task.draw_inputs(some, path))
