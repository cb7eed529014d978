"""Trains any task, and picks up where an interrupted run stopped."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from litv2_jax.training.checkpoint import Checkpoints, start_from
from litv2_jax.training.devices import Devices, StopRequest
from litv2_jax.training.evaluation import Evaluator
from litv2_jax.training.failures import failing_together
from litv2_jax.training.log import Log, announce
from litv2_jax.training.plan import Plan, RunSettings
from litv2_jax.training.profile import Profiler, StepRange
from litv2_jax.training.provenance import record_start
from litv2_jax.training.step import TrainState
from litv2_jax.training.task import Batch, Task

# How many images to draw as training sees them.
_NUM_EXAMPLES = 16


class TrainingError(RuntimeError):
    """A run that cannot go on; its message says why."""


class StoppedError(RuntimeError):
    """A run that was asked to stop, and saved what it had; start it again."""


def fit(
    task: Task,
    settings: RunSettings,
    workdir: Path,
    devices: Devices | None = None,
    profiled: StepRange | None = None,
) -> dict[str, float]:
    """Trains to the end, resuming where the workdir's latest checkpoint stands.

    Args:
        task: The problem.
        settings: The recipe.
        workdir: Gets `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `report/`.
        devices: Where to train; everywhere by default.
        profiled: Steps to write a trace of; none by default.

    Returns:
        The last evaluation.

    Raises:
        ConfigError: If a checkpoint does not fit the model, or the run does not have
            the steps to trace.
        StoppedError: If SIGTERM or Ctrl-C asked to stop; a checkpoint has been saved.
        TrainingError: If too many losses in a row are not finite.
    """
    devices = devices or Devices()
    plan = Plan(task, settings)
    profiled = profiled or StepRange()
    profiled.check(0, plan.num_steps)
    with (
        StopRequest() as stop,
        Checkpoints(
            workdir / "checkpoints", task.best, task.description
        ) as checkpoints,
        # Innermost, because leaving the others waits for the other processes.
        failing_together(StoppedError),
    ):
        state, results = _begin(task, settings, plan, devices, checkpoints)
        start_step = int(state.step)
        is_reported = (workdir / "report" / "summary.md").exists()
        if start_step >= plan.num_steps and results and is_reported:
            announce(f"The run in {workdir} is finished, at step {start_step}.")
            return results
        profiled.check(start_step, plan.num_steps)
        with Log(
            workdir,
            start_step=start_step,
            num_steps=plan.num_steps,
            batch_size=settings.batch_size,
            every=settings.log_every_steps,
        ) as log:
            record_start(workdir, start_step)
            profiler = Profiler(profiled, workdir / "tensorboard")
            trainer = _Trainer(
                task, settings, plan, devices, checkpoints, log, stop, profiler
            )
            return trainer.run(state, results)


def _begin(
    task: Task,
    settings: RunSettings,
    plan: Plan,
    devices: Devices,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any."""
    like = plan.create_abstract_state(task)
    restored = checkpoints.restore(devices.replicate_shapes(like))
    if restored:
        announce(f"Found a checkpoint of step {int(restored[0].step)}.")
        return restored
    state = plan.create_state(task, settings)
    if settings.weights:
        weights = Path(settings.weights)
        params, stats, new = start_from(weights, state.params, state.stats)
        state = dataclasses.replace(state, params=params, stats=stats)
        if new:
            announce(
                f"Only the backbone is taken from {weights}, which is of another kind "
                f"of model; {', '.join(new)} are new."
            )
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
        profiler: Profiler,
    ):
        self._task = task
        self._settings = settings
        self._plan = plan
        self._devices = devices
        self._checkpoints = checkpoints
        self._log = log
        self._stop = stop
        self._profiler = profiler
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
        elif start_step >= self._plan.num_steps:
            # Only its report is missing, which shows examples of an evaluation.
            self._evaluator(state.params, state.stats)
        train_step = self._plan.create_step(self._task, self._settings)
        performance = self._log.performance
        latest = None
        with (
            contextlib.closing(iter(self._task.train_batches(start_step))) as batches,
            contextlib.closing(self._profiler),
        ):
            for step in range(start_step + 1, self._plan.num_steps + 1):
                batch = performance.wait_for(batches)
                if step == 1:
                    self._draw_examples(batch)
                batch = self._devices.share_batch(batch)
                self._profiler.before(step)
                state, scalars = performance.run(train_step, state, batch, self._key)
                self._profiler.after(step, scalars)
                # The numbers of the step before are fetched while this one runs.
                if latest:
                    self._record(*latest)
                latest = step, scalars
                is_stopping = self._stop.reached(step)
                if is_stopping or self._saves_at(step):
                    self._record(*latest)
                    latest = None
                    results = self._save(step, state, is_stopping)
        example = self._evaluator.predict(state.params, state.stats)
        self._log.report(
            lambda path: self._task.draw(*example, path),
            results,
            self._evaluator.table,
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
        self._log.performance.restart()
        if is_stopping or self._stop.is_received:
            raise StoppedError(
                f"Stopped as asked, with a checkpoint of step {step} of "
                f"{self._plan.num_steps}. Start the same command again to go on."
            )
        return results

    def _record(self, step: int, scalars: Mapping[str, jax.Array]) -> None:
        """Logs a step.

        Raises:
            ConfigError: If too many records are unreadable.
            TrainingError: If too many updates in a row have been skipped.
        """
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self._task.check_unreadable(int(values.pop("num_unreadable")))
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
            some = {
                name: np.asarray(x[:_NUM_EXAMPLES])
                for name, x in batch.items()
                if name != "num_unreadable"
            }
            some = jax.jit(self._task.augment)(some, jax.random.key(0))
            self._log.draw("augmented", lambda path: self._task.draw_inputs(some, path))
