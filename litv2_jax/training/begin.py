"""The state that a start of a run begins with."""

import dataclasses
from pathlib import Path

from litv2_jax.checkpoints import find_checkpoint, initialize_from
from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.log import announce
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.step import TrainState
from litv2_jax.training.workdir import check_beginning, mark_saved, mark_unsaved


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
        params, stats, new = initialize_from(
            settings.weights, state.params, state.stats
        )
        state = dataclasses.replace(state, params=params, stats=stats)
        if new:
            announce(
                f"Only the backbone is taken from {settings.weights}, which is of "
                f"another kind of model; {', '.join(new)} are new."
            )
    mark_unsaved(workdir)
    return run.devices.replicate(state), {}


def check_weights(settings: RunSettings, checkpoints: Checkpoints) -> None:
    """Raises ConfigError if a run would begin with weights that are not there."""
    if settings.weights and not checkpoints.steps():
        find_checkpoint(settings.weights)
