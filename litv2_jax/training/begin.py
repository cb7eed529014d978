"""The state that a start of a run begins with."""

import dataclasses
from pathlib import Path

from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.log import announce
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.step import TrainState, create_abstract_model
from litv2_jax.training.workdir import check_beginning, mark_saved, mark_unsaved
from litv2_jax.weights import Loaded, open_weights


def begin(
    run: Run, checkpoints: Checkpoints, workdir: Path, *, skip_damaged: bool
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any.

    Raises:
        ConfigError: If the latest checkpoint is damaged or of another kind of run; if
            there is none although there were steps; or if the weights do not fit.
    """
    settings = run.settings
    restored = checkpoints.restore(
        run.create_abstract_state(), skip_damaged=skip_damaged
    )
    if restored:
        state, results = restored
        step = int(state.step)
        if step > run.num_steps:
            raise ConfigError(
                f"The run in {workdir} is at step {step}, beyond the {run.num_steps} "
                f"that config.epochs = {settings.epochs:g} makes: give it "
                f"{step / run.task.steps_per_epoch:.6g} epochs or more."
            )
        announce(f"Found a checkpoint of step {step}.")
        mark_saved(workdir)
        return state, results
    check_beginning(workdir)
    state = run.create_state()
    if settings.weights:
        loaded = load_weights(run, state)
        state = dataclasses.replace(state, params=loaded.params, stats=loaded.stats)
        if state.average:
            state = state.start_average()
        for note in loaded.notes:
            announce(note)
    mark_unsaved(workdir)
    return run.devices.replicate(state), {}


def load_weights(run: Run, state: TrainState) -> Loaded:
    """Returns the weights that a run begins with, and says what of them is new.

    Args:
        run: Whose recipe names weights.
        state: With new weights.

    Raises:
        ConfigError, ValueError: If the weights are damaged or do not fit.
    """
    return open_weights(run.settings.weights).load(
        create_abstract_model(run.task),
        state.params,
        state.stats,
        head=run.settings.weights_head,
        class_names=run.task.description.get("class_names") or [],
    )


def check_weights(settings: RunSettings, checkpoints: Checkpoints) -> None:
    """Raises ValueError if a run would start from weights that do not exist."""
    if settings.weights and not checkpoints.steps():
        open_weights(settings.weights)
