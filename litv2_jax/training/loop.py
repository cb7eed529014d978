"""Trains any task, and picks up where an interrupted run stopped."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from litv2_jax.paths import expand_path
from litv2_jax.training.begin import begin, open_initial_weights
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.devices import Devices, StopRequest
from litv2_jax.training.divergence import SkippedSteps, TrainingError
from litv2_jax.training.evaluation import Evaluator
from litv2_jax.training.failures import failing_together
from litv2_jax.training.log import Log, announce
from litv2_jax.training.profile import Profiler, StepRange
from litv2_jax.training.provenance import record_start
from litv2_jax.training.rows import find_skipped, read_rows
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.step import TrainState
from litv2_jax.training.task import Batch, Task
from litv2_jax.training.trackers import check_installed
from litv2_jax.training.workdir import locked, mark_saved

__all__ = ["StoppedError", "TrainingError", "fit"]

# How many images to draw as training sees them.
_NUM_EXAMPLES = 16


class StoppedError(RuntimeError):
    """A run that was asked to stop, and saved what it had; start it again."""


def fit(
    task: Task,
    settings: RunSettings,
    workdir: str | Path,
    devices: Devices | None = None,
    profiled: StepRange | None = None,
    *,
    on_begin: Callable[[], None] = lambda: None,
    skip_damaged: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains to the end, resuming where the workdir's latest checkpoint stands.

    Args:
        task: The problem.
        settings: The recipe.
        workdir: Gets `checkpoints/`, `metrics.jsonl`, `report/` and trackers' files.
        devices: Where to train; everywhere by default.
        profiled: Steps to write a trace of; none by default.
        on_begin: Called once the settings have proved to work, by a first step.
        skip_damaged: Whether to resume from the latest checkpoint that is whole.
        recipe: All settings, for trackers to show.

    Returns:
        The last evaluation.

    Raises:
        CheckpointError: If a checkpoint could not be written.
        ConfigError: If the workdir is in use, a checkpoint is damaged or does not fit
            the run, checkpoints are gone, the run does not have the steps to trace, or
            a tracker cannot be used.
        StoppedError: If SIGTERM or Ctrl-C asked to stop; a checkpoint has been saved.
        TrainingError: If the run diverges.
    """
    check_installed(settings.trackers)
    workdir = expand_path(workdir)
    run = Run(task, settings, devices)
    profiled = profiled or StepRange()
    profiled.check(0, run.num_steps)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        task.best,
        run.describe(),
        functools.partial(mark_saved, workdir),
    )
    weights = open_initial_weights(run, checkpoints)
    with (
        locked(workdir),
        StopRequest() as stop,
        checkpoints,
        # Innermost, because leaving the others waits for the other processes.
        failing_together(StoppedError),
    ):
        state, results = begin(
            run, checkpoints, workdir, weights, skip_damaged=skip_damaged
        )
        del weights  # Those of a file are in memory.
        start_step = int(state.step)
        skipped = SkippedSteps(
            settings.max_skipped_steps,
            start_step=start_step,
            earlier=find_skipped(read_rows(workdir)),
        )
        skipped.check_results(start_step, results, checkpoints.steps())
        is_reported = (workdir / "report" / "summary.md").exists()
        if start_step >= run.num_steps and results and is_reported:
            on_begin()
            announce(f"The run in {workdir} is finished, at step {start_step}.")
            return results
        profiled.check(start_step, run.num_steps)
        # All processes have read the log when the first one goes on to cut it.
        checkpoints.open()
        with Log(
            workdir,
            start_step=start_step,
            num_steps=run.num_steps,
            batch_size=settings.batch_size,
            every=settings.log_every_steps,
            trackers=settings.trackers,
            recipe=recipe or {},
        ) as log:
            record_start(workdir, start_step)
            trainer = _Trainer(
                run,
                checkpoints,
                log,
                stop,
                Profiler(profiled, workdir / "tensorboard"),
                skipped,
                on_begin,
            )
            return trainer.train(state, results)


class _Trainer:
    """Runs the steps that are left."""

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        log: Log,
        stop: StopRequest,
        profiler: Profiler,
        skipped: SkippedSteps,
        on_begin: Callable[[], None],
    ):
        self._run = run
        self._task = run.task
        self._checkpoints = checkpoints
        self._log = log
        self._stop = stop
        self._profiler = profiler
        self._evaluator = Evaluator(run.task, run.devices)
        self._skipped = skipped
        self._on_begin = on_begin
        self._has_begun = False
        # The first of the steps after which to save whose turn was missed.
        self._overdue: int | None = None
        key = jax.random.fold_in(jax.random.key(run.settings.seed), 1)
        self._key = run.devices.replicate(key)

    def train(self, state: TrainState, results: dict[str, float]) -> dict[str, float]:
        """Trains from a state, of which an evaluation may be known, to the end."""
        start_step = int(state.step)
        if self._run.should_evaluate(start_step) and not results:
            # The run was stopped before it had evaluated what it saved.
            results = self._evaluate(start_step, state)
            self._checkpoints.add_results(start_step, results)
            self._stop_if_asked(start_step)
        elif start_step >= self._run.num_steps:
            # Only its report is missing, which shows examples of an evaluation.
            self._evaluator(*state.served())
        train_step = self._run.create_step(self._run.devices.replicated)
        performance = self._log.performance
        latest = None
        with (
            contextlib.closing(iter(self._task.train_batches(start_step))) as batches,
            contextlib.closing(self._profiler),
        ):
            shards = self._run.devices.shard_ahead(self._drawn(batches, start_step))
            for step in range(start_step + 1, self._run.num_steps + 1):
                batch = performance.wait_for(shards)
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
        self._begin()
        self._skipped.check_end(self._run.num_steps, self._checkpoints.finished())
        example = self._evaluator.predict(*state.served())
        self._log.report(
            self._task.pictures(*example),
            results,
            self._evaluator.table,
            self._evaluator.write_scores,
        )
        return results

    def _saves_at(self, step: int) -> bool:
        every = self._run.settings.checkpoint_every_steps
        is_due = self._run.should_evaluate(step) or bool(every and step % every == 0)
        return is_due or self._overdue is not None

    def _save(
        self, step: int, state: TrainState, is_stopping: bool
    ) -> dict[str, float]:
        """Evaluates if it is time to, saves, and stops the run if it is to stop.

        While steps are being skipped, neither is done, so that checkpoints from before
        stay; the first step that is applied makes up for it.
        """
        self._log.write_means(step)
        results = {}
        if self._skipped.is_skipping:
            if self._overdue is None or self._run.should_evaluate(step):
                self._overdue = step
        else:
            due = step if self._overdue is None else self._overdue
            self._overdue = None
            if self._run.should_evaluate(due) and not is_stopping:
                results = self._evaluate(step, state)
            self._checkpoints.save(step, state, results)
        self._log.performance.restart()
        self._stop_if_asked(step, is_stopping)
        return results

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Returns the results, which are logged; none if asked to stop meanwhile."""
        results = self._evaluator(*state.served(), self._stop)
        if results:
            self._skipped.check_results(step, results, self._checkpoints.finished())
            epoch = step / self._task.steps_per_epoch
            self._log.write_evaluation(step, epoch, results)
        return results

    def _stop_if_asked(self, step: int, is_stopping: bool = False) -> None:
        if not is_stopping and not self._stop.is_received:
            return
        if self._skipped.is_skipping:
            raise StoppedError(
                f"Stopped as asked at step {step} of {self._run.num_steps}, without a "
                "checkpoint because the last steps have been skipped. Start the same "
                "command again to go on from the one before."
            )
        raise StoppedError(
            f"Stopped as asked, with a checkpoint of step {step} of "
            f"{self._run.num_steps}. Start the same command again to go on."
        )

    def _begin(self) -> None:
        """Keeps the settings, once a step has shown that they work."""
        if not self._has_begun:
            self._has_begun = True
            self._on_begin()

    def _record(self, step: int, scalars: Mapping[str, jax.Array]) -> None:
        """Logs a step.

        Raises:
            ConfigError: If too many records are unreadable.
            TrainingError: If too many in a row have been skipped.
        """
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self._task.check_unreadable(int(values.pop("num_unreadable")))
        self._checkpoints.check()
        self._begin()
        if values.pop("skipped"):
            self._skipped.add_skipped()
            self._log.write_skipped(
                step, values, self._skipped.count, self._skipped.since
            )
            self._skipped.check(step, values, self._checkpoints.finished())
        else:
            self._log.write_step(step, values)
            self._skipped.add_applied(step)

    def _drawn(self, batches: Iterator[Batch], start_step: int) -> Iterator[Batch]:
        """Passes batches on, and draws examples of the first one of the run."""
        for step, batch in enumerate(batches, start_step + 1):
            if step == 1:
                self._draw_examples(batch)
            yield batch

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
