"""Saves and restores the checkpoints of a run.

A checkpoint holds `model` (weights and running statistics to be served), `optimizer`
(moments and the step; absent in converted weights) and a manifest. Where averages are
kept, `model` is these, and `trained` what they are the averages of.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from litv2_jax.checkpoints.arrays import (
    StoredArrays,
    arrange,
    by_name,
    shapes_by_name,
)
from litv2_jax.checkpoints.folder import list_steps, move_away
from litv2_jax.checkpoints.manifest import (
    DamagedCheckpointError,
    add_results,
    create_manifest,
    find_best,
    read_manifest,
)
from litv2_jax.checkpoints.storage import (
    BackgroundSave,
    CheckpointError,
    delete_checkpoint,
    delete_incomplete,
    explain_failure,
)
from litv2_jax.settings import ConfigError
from litv2_jax.training.classes import check_same_classes
from litv2_jax.training.log import announce
from litv2_jax.training.step import TrainState

# What must not change while a run lasts, and what to call it.
_RUN_FACTS = {
    "batch_size": "config.batch_size",
    "num_train_examples": "The number of training images",
}


class Checkpoints:
    """The checkpoints of a run: the last two, and the one with the best result.

    Of the last two, one stays whole whatever happens while the other is being written.
    """

    def __init__(
        self,
        directory: Path,
        best: str,
        description: dict[str, Any],
        on_saved: Callable[[], None] = lambda: None,
    ):
        """Names the directory, which need not exist; nothing is read or written yet.

        Args:
            directory: One numbered folder per checkpoint.
            best: Name of the result that is better when larger.
            description: Of the model and the run, in JSON; saved with each checkpoint.
            on_saved: Called when a checkpoint is complete.
        """
        self._directory = directory
        self._description = {"best": best, **description}
        self._on_saved = on_saved
        self._pending: BackgroundSave | None = None

    def open(self) -> None:
        """Makes the directory, and removes what an interrupted start left in it.

        Raises:
            CheckpointError: If it cannot be written to.
        """
        if jax.process_index() == 0:
            with explain_failure(self._directory):
                self._directory.mkdir(parents=True, exist_ok=True)
                delete_incomplete(self._directory)
                self._delete_superfluous()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, damaged or not, in order."""
        return list_steps(self._directory)

    def check(self) -> None:
        """Raises CheckpointError if the last checkpoint could not be written.

        To be called at every step: of several processes, the others wait for the one
        that has failed until it says so.
        """
        with explain_failure(self._directory):
            if self._pending and self._pending.is_complete():
                self._finish()

    def finished(self) -> list[int]:
        """Returns the steps after waiting until the last checkpoint is complete."""
        with explain_failure(self._directory):
            if self._pending:
                self._pending.wait()
                self._finish()
        return self.steps()

    def save(self, step: int, state: TrainState, results: Mapping[str, float]) -> None:
        """Begins to save; the state may be overwritten as soon as this returns.

        Args:
            step: Steps made so far; a checkpoint of the same step is replaced.
            state: What to save.
            results: Of the evaluation at this step; empty if there was none.

        Raises:
            CheckpointError: If the one before could not be written, or this one.
        """
        content = _checkpointables(state)
        # That of the first process is written.
        arrays = by_name(content) if jax.process_index() == 0 else {}
        manifest = create_manifest(
            self._description, arrays, step=step, results=results
        )
        self.finished()
        with explain_failure(self._directory):
            self._pending = BackgroundSave(
                self._directory / str(step), content, manifest
            )

    def _finish(self) -> None:
        """Ends a save that is complete."""
        self._pending = None
        self._on_saved()
        if jax.process_index() == 0:
            self._delete_superfluous()

    def _delete_superfluous(self) -> None:
        """Deletes all checkpoints but the last two and the best."""
        steps, manifests = self.steps(), []
        for step in steps:
            # One that is damaged is not the best.
            with contextlib.suppress(ConfigError):
                manifests.append(read_manifest(self._directory / str(step)))
        for step in {*steps[:-2]} - {find_best(manifests)}:
            delete_checkpoint(self._directory / str(step))

    def add_results(self, step: int, results: Mapping[str, float]) -> None:
        """Adds the results of an evaluation to the checkpoint that was restored for it.

        Raises:
            CheckpointError: If they could not be written.
        """
        if jax.process_index() == 0:
            with explain_failure(self._directory):
                add_results(self._directory / str(step), results)

    def restore(
        self, like: TrainState, *, skip_damaged: bool = False
    ) -> tuple[TrainState, dict[str, float]] | None:
        """Returns the latest state and its results, or None if there is none.

        Args:
            like: Shapes, types and shardings of the state.
            skip_damaged: Whether to take the latest that is whole, and to move those
                after it out of the way.

        Raises:
            ConfigError: If the checkpoint is damaged, that of another model, or of
                another kind of run.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                restored = self._restore(step, like)
            except DamagedCheckpointError as error:
                if not skip_damaged:
                    raise self._advise(error, step) from error
                announce(f"{error} Going on from the one before it.")
                damaged.append(step)
                continue
            if jax.process_index() == 0:
                move_away(self._directory, damaged)
            return restored
        if damaged:
            raise ConfigError(
                f"None of the checkpoints in {self._directory} is whole: bring back a "
                "copy of one, or start again in another workdir."
            )
        return None

    def _advise(
        self, error: DamagedCheckpointError, step: int
    ) -> DamagedCheckpointError:
        older = [other for other in self.steps() if other < step]
        advice = (
            f"add --skip-damaged to go on from the one of step {older[-1]}"
            if older
            else "there is none before it to go on from"
        )
        return DamagedCheckpointError(error.path, f"{error.reason}; {advice}")

    def _restore(
        self, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, float]]:
        path = self._directory / str(step)
        stored = StoredArrays.open(path, ["model", "trained", "optimizer"])
        wanted, adopt = _find_averages(stored, like)
        check_same_classes(
            stored.manifest.description, self._description, str(stored.path)
        )
        self._check_run(stored)
        stored.check_fit(shapes_by_name(wanted))
        loaded = jax.tree.map(_place, arrange(stored.read(), wanted), wanted)
        state = adopt(_to_state(loaded))
        # The digests vouch for the state's own step, where there are any.
        is_old = stored.manifest.arrays is None
        found = int(state.step) if is_old else stored.manifest.step
        if found != step:
            raise DamagedCheckpointError(stored.path, f"it is that of step {found}")
        return state, stored.manifest.results

    def _check_run(self, stored: StoredArrays) -> None:
        """Raises ConfigError if a step stood for other images than it does now."""
        old = stored.manifest.description.get("run", {})
        new = self._description.get("run", {})
        for key, name in _RUN_FACTS.items():
            if key in old and key in new and old[key] != new[key]:
                raise ConfigError(
                    f"{name} was {old[key]:,} when {stored.path} was saved and is "
                    f"{new[key]:,}, so that its steps stand for other images: change "
                    "it back, or begin a new run in another workdir with "
                    f"--config.weights={stored.path}."
                )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Waits until everything is saved."""
        if kind is not CheckpointError:
            self.finished()


def _checkpointables(state: TrainState) -> dict[str, Any]:
    trained = {"params": state.params, "stats": state.stats}
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    if not state.average:
        return {"model": trained, "optimizer": optimizer}
    return {"model": state.average, "trained": trained, "optimizer": optimizer}


def _to_state(content: dict[str, Any]) -> TrainState:
    """Returns the state of which `_checkpointables` has made this."""
    trained, optimizer = content.get("trained", content["model"]), content["optimizer"]
    return TrainState(
        optimizer["step"],
        trained["params"],
        trained["stats"],
        optimizer["opt_state"],
        content["model"] if "trained" in content else {},
    )


def _find_averages(
    stored: StoredArrays, like: TrainState
) -> tuple[dict[str, Any], Callable[[TrainState], TrainState]]:
    """Returns what to read of a checkpoint, and what to do with the state in it.

    A run may begin, or cease, to keep averages when it is resumed.
    """
    has_average = any(name.startswith("trained/") for name in stored.arrays)
    if has_average == bool(like.average):
        return _checkpointables(like), lambda state: state
    if has_average:
        average = {"params": like.params, "stats": like.stats}
        with_average = dataclasses.replace(like, average=average)
        return _checkpointables(with_average), _drop_average
    announce("The checkpoint has no averages: they start from its weights.")
    return _checkpointables(_drop_average(like)), TrainState.start_average


def _drop_average(state: TrainState) -> TrainState:
    return dataclasses.replace(state, average={})


def _place(array: np.ndarray, like: jax.Array) -> jax.Array:
    """Puts an array that every process has on the devices of a sharding."""
    return jax.make_array_from_callback(
        array.shape, like.sharding, lambda index: array[index]
    )
