"""Models with their weights: `litv2_jax.create_model` and stored descriptions."""

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any

import jax
from flax import nnx

from litv2_jax import models
from litv2_jax.models.blocks import RGB
from litv2_jax.models.family import find_family
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.weights import Weights, open_weights


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
        weights: The workdir of a run, whose best checkpoint is taken; a checkpoint; a
            `.pth`, `.pt` or `.safetensors` file; a folder from `save_pretrained`;
            `published`, the original's weights of this model, or `published:NAME`,
            which are downloaded once. If `num_classes` is given and is another than
            theirs, the head is new, or left out for 0; for another `in_chans` than 3,
            the first layer is adapted; models of another kind take the backbone of a
            classifier. A warning says so.
        entry: Which weights of a PyTorch file to take, such as `model_ema`; None for
            those that `read_torch_checkpoint` takes.
        **options: Those of `litv2_jax.models.create_model`: `dtype`, and sizes that
            differ from the published ones, such as `num_classes` (0 for a classifier
            that returns features), `in_chans` and `embed_dim`.

    Raises:
        ValueError: If the name is unknown, a size is impossible, or the weights are
            those of another model or cannot be read.
        DownloadError: If published weights cannot be downloaded.
    """
    if weights is None:
        return models.create_model(name, rngs=rngs, **options)
    return load_model(
        open_weights(weights, entry, model=name), name, rngs=rngs, **options
    )


def load_model(
    weights: Weights, name: str, *, rngs: nnx.Rngs, **options: Any
) -> nnx.Module:
    """Creates a model with weights that have been opened; see `create_model`."""
    # Shapes alone: nothing is initialised that the weights would replace.
    model = nnx.eval_shape(
        lambda: models.create_model(name, rngs=nnx.Rngs(0), **options)
    )
    # A head that nobody has asked for would be a surprise.
    head = "new" if options.get("num_classes") else "keep"
    loaded = weights.load(model, *split_state(model), head=head)
    for note in loaded.notes:
        logging.warning("%s", note)
    if loaded.new:
        model = models.create_model(name, rngs=rngs, **options)
        trees = split_state(model)
        trees = jax.tree.map(_prefer_loaded, (loaded.params, loaded.stats), trees)
    else:
        trees = loaded.params, loaded.stats
    nnx.update(model, *trees)
    return model


def load_described(path: str | PathLike, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the model that weights are of, ready for inference, and its description.

    Args:
        path: As `weights` of `create_model`.
        **options: As there, `dtype`.

    Raises:
        ConfigError: If the weights do not say how many heads their model has.
        ValueError: If there are no weights, or they cannot be read.
    """
    weights = open_weights(path)
    description = weights.description
    if not description.get("are_heads_known", True):
        raise ConfigError(
            f"{path} does not say how many heads its model has: convert the PyTorch "
            "file with --num-heads and --alpha."
        )
    model = load_model(weights, **description["model"], rngs=nnx.Rngs(0), **options)
    return model, description


def find_exif_rule(description: Mapping[str, Any]) -> str:
    """Returns what a model makes of EXIF orientations: `applied` or `ignored`.

    Args:
        description: From `load_described`.
    """
    # Checkpoints of classifiers that do not say are of runs that ignored it.
    is_classifier = find_family(description["model"]["name"]).task == "classification"
    default = "ignored" if is_classifier else "applied"
    return description["input"].get("exif", default)


def check_takes_rgb(model: Any, path: str | PathLike) -> None:
    """Raises ConfigError if a model is for images of other than three channels.

    Args:
        model: From `load_described`.
        path: Where its weights are.
    """
    in_chans = model.backbone.config.in_chans
    if in_chans != RGB:
        raise ConfigError(
            f"{path} is a model for images of {in_chans} channels, but images are read "
            f"as RGB, with {RGB}: create it with create_model(..., "
            f"in_chans={in_chans}, weights={str(path)!r}) and call it with arrays."
        )


def _prefer_loaded(loaded: jax.Array | jax.ShapeDtypeStruct, new: jax.Array):
    return new if isinstance(loaded, jax.ShapeDtypeStruct) else loaded


def describe(path: str | PathLike) -> dict[str, Any]:
    """Returns the description of a model: `model`, `input`, `class_names`.

    Args:
        path: As `weights` of `create_model`.

    Raises:
        ValueError: If there are no weights.
    """
    return open_weights(path).description
