"""The arrays of a model, in plain dictionaries."""

from typing import Any

from flax import nnx


def split_state(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics."""
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
