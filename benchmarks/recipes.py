"""The training loop's run of a recipe, whose data are not opened."""

from typing import Any

from litv2_jax.tasks import create_task
from litv2_jax.training.devices import Devices
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings


def plan_run(config: Any, devices: Devices | None = None) -> Run:
    """Returns what the training loop makes of a recipe."""
    settings, rest = RunSettings.split(config.to_dict())
    task = create_task(
        settings.task,
        rest,
        batch_size=settings.batch_size,
        seed=settings.seed,
        with_data=False,
    )
    return Run(task, settings, devices)
