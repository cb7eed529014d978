"""Models with their weights: `litv2_jax.create_model` and stored descriptions."""

from os import PathLike
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from litv2_jax import models
from litv2_jax.convert.apply import load_torch_weights
from litv2_jax.models.state import split_state
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError


def create_model(
    name: str,
    *,
    rngs: nnx.Rngs,
    weights: str | PathLike | None = None,
    entry: str | None = None,
    **options: Any,
) -> nnx.Module:
    """Creates a model, ready for inference, with new weights or with those of a file.

    Args:
        name: One of `list_models(task)`.
        rngs: Stream `params` initialises the weights.
        weights: A checkpoint of this project, the workdir of a run, whose best
            checkpoint is taken, or a PyTorch file; of a classifier's file, other models
            take the backbone and say so.
        entry: Which weights of a PyTorch file to take, such as `model_ema`; None for
            those that `read_torch_checkpoint` takes.
        **options: Those of `litv2_jax.models.create_model`: `dtype`, and sizes that
            differ from the published ones, such as `num_classes` and `embed_dim`.

    Raises:
        ValueError: If the name is unknown, a size is impossible, or the weights are
            those of another model or cannot be read.
    """
    if weights is None:
        return models.create_model(name, rngs=rngs, **options)
    # Shapes alone: nothing is initialised that the weights would replace.
    model = nnx.eval_shape(
        lambda: models.create_model(name, rngs=nnx.Rngs(0), **options)
    )
    load_weights(model, weights, entry)
    state = nnx.state(model)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(state)):
        # Only the backbone was in the file: the rest is new.
        model = models.create_model(name, rngs=rngs, **options)
        nnx.update(model, jax.tree.map(_prefer_loaded, state, nnx.state(model)))
    return model


def _prefer_loaded(loaded: jax.Array | jax.ShapeDtypeStruct, new: jax.Array):
    return new if isinstance(loaded, jax.ShapeDtypeStruct) else loaded


def load_weights(
    model: nnx.Module, path: str | PathLike, entry: str | None = None
) -> None:
    """Fills a model, in place, from a checkpoint, a run or a PyTorch file.

    Args:
        model: From `create_model`.
        path: As `weights` there.
        entry: As there.

    Raises:
        ValueError: If the weights are those of another model, or cannot be read.
    """
    path = expand_path(Path(path))
    if path.is_file():
        load_torch_weights(model, path, entry=entry)
        return
    if entry is not None:
        raise ConfigError(
            f"entry={entry!r} names weights in a PyTorch file, but {path} is none."
        )
    # Orbax takes a second to import, and most models are created without.
    from litv2_jax.checkpoints import load_weights as read_weights

    params, stats = read_weights(path, *split_state(model))
    nnx.update(model, params, stats)


def describe(path: str | PathLike) -> dict[str, Any]:
    """Returns the model description in a checkpoint: `model`, `input`, `class_names`.

    Args:
        path: A checkpoint, or the workdir of a run, whose best checkpoint is taken.

    Raises:
        ConfigError: If there is no checkpoint.
    """
    from litv2_jax.checkpoints import find_checkpoint, read_description

    return read_description(find_checkpoint(expand_path(Path(path))))
