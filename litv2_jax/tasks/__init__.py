"""The tasks, by the name that recipes give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from litv2_jax.settings import ConfigError
from litv2_jax.tasks.classification import Classification
from litv2_jax.tasks.detection import Detection
from litv2_jax.tasks.segmentation import Segmentation
from litv2_jax.training.task import Task

TASKS = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
}

# Settings that recipes had not always, and what they were before.
DEFAULTS = {"augment.randaugment_on": "device", "eval.tta": "none"}


def create_task(
    name: str,
    values: Mapping[str, Any],
    *,
    batch_size: int,
    seed: int,
    with_data: bool = True,
    scored: Sequence[str] | None = None,
) -> Task:
    """Returns the task of a recipe, its settings checked and its data opened.

    Args:
        name: A key of `TASKS`.
        values: The task's sections of the recipe.
        batch_size: Examples per batch, over all processes.
        seed: Of the order of the data and its augmentation on the host.
        with_data: Whether to open the data set; without, the task builds models and
            compiles steps as if for the published data set that the recipe names.
        scored: Names of the classes of weights that are only to be scored, which needs
            no training split; None for a task that is to be trained.

    Raises:
        ConfigError: If a setting is unknown or impossible, or there is no such data.
    """
    if name not in TASKS:
        raise ConfigError(
            f"config.task is {name!r}; there are {', '.join(sorted(TASKS))}."
        )
    return TASKS[name].parse(
        values, batch_size=batch_size, seed=seed, with_data=with_data, scored=scored
    )
