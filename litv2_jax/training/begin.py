"""The state that a start of a run begins with."""

import dataclasses
from pathlib import Path

from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.log import announce
from litv2_jax.training.run import Run
from litv2_jax.training.step import TrainState, create_abstract_model
from litv2_jax.training.workdir import check_beginning, mark_saved, mark_unsaved
from litv2_jax.weights import Loaded, Weights, open_weights


def begin(
    run: Run,
    checkpoints: Checkpoints,
    workdir: Path,
    weights: Weights | None,
    *,
    skip_damaged: bool,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any.

    Args:
        run: What to train.
        checkpoints: Those of the run.
        workdir: Folder of the run.
        weights: From `open_initial_weights`.
        skip_damaged: Whether to go back to the latest checkpoint that is whole.

    Raises:
        ConfigError: If the latest checkpoint is damaged or of another kind of run; if
            there is none although there were steps; or if the weights do not fit.
    """
    restored = checkpoints.restore(
        run.create_abstract_state(), skip_damaged=skip_damaged
    )
    if restored:
        state, results = restored
        step = int(state.step)
        if step > run.num_steps:
            raise ConfigError(
                f"The run in {workdir} is at step {step}, beyond the {run.num_steps} "
                f"that config.epochs = {run.settings.epochs:g} makes: give it "
                f"{step / run.task.steps_per_epoch:.6g} epochs or more."
            )
        announce(f"Found a checkpoint of step {step}.")
        mark_saved(workdir)
        return state, results
    check_beginning(workdir)
    state = run.create_state()
    if weights:
        loaded = load_weights(run, state, weights)
        state = dataclasses.replace(state, params=loaded.params, stats=loaded.stats)
        if state.average:
            state = state.start_average()
        for note in loaded.notes:
            announce(note)
    mark_unsaved(workdir)
    return run.devices.replicate(state), {}


def load_weights(run: Run, state: TrainState, weights: Weights) -> Loaded:
    """Returns the weights that a run begins with, and says what of them is new.

    Args:
        run: What to train.
        state: With new weights.
        weights: What to begin with.

    Raises:
        ConfigError, ValueError: If the weights are damaged or do not fit.
    """
    return weights.load(
        create_abstract_model(run.task),
        state.params,
        state.stats,
        head=run.settings.weights_head,
        class_names=run.task.description.get("class_names") or [],
    )


def open_initial_weights(run: Run, checkpoints: Checkpoints) -> Weights | None:
    """Returns the weights that a run starts from; None if it resumes or names none.

    Raises:
        ValueError: If they do not exist or cannot be read.
        DownloadError: If they are published ones that cannot be downloaded.
    """
    if not run.settings.weights or checkpoints.steps():
        return None
    return open_weights(run.settings.weights, model=run.model_name)
