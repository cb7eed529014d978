"""The state that a start of a run begins with."""

import dataclasses
from pathlib import Path
from typing import Any

from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints, find_checkpoint, start_from
from litv2_jax.training.devices import Devices
from litv2_jax.training.log import announce
from litv2_jax.training.plan import Plan, RunSettings
from litv2_jax.training.step import TrainState
from litv2_jax.training.task import Task
from litv2_jax.training.workdir import check_beginning, mark_saved, mark_unsaved


def describe(task: Task, settings: RunSettings) -> dict[str, Any]:
    """Returns what the checkpoints of a run say about it, in JSON.

    `run` says which images a step stands for, which must not change.
    """
    return {
        **task.description,
        "run": {
            "batch_size": settings.batch_size,
            "num_train_examples": task.num_train_examples,
        },
    }


def begin(
    task: Task,
    settings: RunSettings,
    plan: Plan,
    devices: Devices,
    checkpoints: Checkpoints,
    workdir: Path,
    *,
    skip_damaged: bool,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any.

    Raises:
        ConfigError: If the latest checkpoint is damaged or of another kind of run; if
            there is none although there were steps; or if the weights do not fit.
    """
    like = devices.replicate_shapes(plan.create_abstract_state(task))
    restored = checkpoints.restore(like, skip_damaged=skip_damaged)
    if restored:
        state, results = restored
        step = int(state.step)
        if step > plan.num_steps:
            raise ConfigError(
                f"The run in {workdir} is at step {step}, beyond the {plan.num_steps} "
                f"that config.epochs = {settings.epochs:g} makes: give it "
                f"{step / task.steps_per_epoch:.6g} epochs or more."
            )
        announce(f"Found a checkpoint of step {step}.")
        mark_saved(workdir)
        return state, results
    check_beginning(workdir)
    state = plan.create_state(task, settings)
    if settings.weights:
        params, stats, new = start_from(settings.weights, state.params, state.stats)
        state = dataclasses.replace(state, params=params, stats=stats)
        if new:
            announce(
                f"Only the backbone is taken from {settings.weights}, which is of "
                f"another kind of model; {', '.join(new)} are new."
            )
    mark_unsaved(workdir)
    return devices.replicate(state), {}


def check_weights(settings: RunSettings, checkpoints: Checkpoints) -> None:
    """Raises ConfigError if a run would begin with weights that are not there."""
    if settings.weights and not checkpoints.steps():
        find_checkpoint(settings.weights)
