"""Compares the classes that a checkpoint was trained on with those of the data."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from litv2_jax.class_names import describe_difference, display_names, match_classes
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.log import announce


def check_same_classes(
    stored: Mapping[str, Any], expected: Mapping[str, Any], place: str
) -> None:
    """Raises ConfigError if a run would resume with other classes or in another order.

    Args:
        stored: Description in the run's checkpoint.
        expected: Description of the task.
        place: What to call the checkpoint.
    """
    old_names, new_names = (
        display_names(description.get("class_names") or [])
        for description in (stored, expected)
    )
    if old_names and new_names and old_names != new_names:
        raise ConfigError(
            f"The run cannot go on with other classes: "
            f"{describe_difference(old_names, new_names, place)}"
        )


def match_to_data(
    stored: Mapping[str, Any], expected: Mapping[str, Any], place: str
) -> list[int] | None:
    """Returns, for each class of the data, its number in the checkpoint to evaluate.

    Args:
        stored: Description in the checkpoint.
        expected: Description of the task.
        place: What to call the checkpoint.

    Returns:
        The numbers; None if they are those of the data.

    Raises:
        ConfigError: If one has a class that the other lacks.
    """
    old_names, new_names = (d.get("class_names") or [] for d in (stored, expected))
    order = match_classes(old_names, new_names, place)
    if order:
        announce(f"{place} has the same classes in another order: matched by name.")
    elif new_names and not old_names:
        announce(f"{place} does not name its classes: taken to be those of the data.")
    return order


def reorder_classes(
    graphdef: nnx.GraphDef,
    params: dict[str, Any],
    stats: dict[str, Any],
    order: list[int],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics whose class k was class order[k].

    Args:
        graphdef: Static half of the model.
        params: Weights.
        stats: Running statistics.
        order: From `match_to_data`.
    """
    model: Any = nnx.merge(graphdef, params, stats)
    model.reorder_classes(order)
    return split_state(model)
