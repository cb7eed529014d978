"""Where a checkpoint and a model differ at their ends: the first layer and the head."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.convert.adapt import (
    adapt_channels,
    explain_channels,
    explain_no_head,
)
from litv2_jax.models.backbone import Backbone
from litv2_jax.models.blocks import RGB
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.family import family_of, find_family

Tree = dict[str, Any]

_KERNEL = ("backbone", "patch_embedding", "project", "kernel")


class StoredEnds:
    """Turns the weights of a model into those of its checkpoint, and back.

    Attributes:
        lacks_head: Whether the model has a head, but the checkpoint none.
        notes: Sentences on what is adapted or left out.
    """

    def __init__(self, model: Any, description: Mapping[str, Any]):
        """Compares both.

        Args:
            model: The model, of which shapes are enough.
            description: Of the checkpoint's model, which may be of another kind.
        """
        sizes = description.get("model", {})
        backbone = getattr(model, "backbone", None)
        is_known = isinstance(backbone, Backbone)
        self._in_chans = backbone.config.in_chans if is_known else RGB
        is_adapted = sizes.get("in_chans", RGB) == RGB != self._in_chans
        self.notes = [explain_channels(self._in_chans)] if is_adapted else []
        self._is_adapted = is_adapted
        self._unused_head: Tree | None = None
        self.lacks_head = False
        if isinstance(model, Classifier) and is_same_kind(description, model):
            num_classes = sizes["num_classes"]
            self.lacks_head = not num_classes and model.head is not None
            if num_classes and model.head is None:
                dim = model.backbone.config.dims[-1]
                self._unused_head = _describe_head(dim, num_classes)
                self.notes.append(explain_no_head(num_classes))

    def as_stored(self, params: Tree) -> Tree:
        """Returns a model's weights, or their shapes, with the checkpoint's ends."""
        if self._is_adapted:
            *_, features = _read(params).shape
            shape = (4, 4, RGB, features)
            params = _replace(params, jax.ShapeDtypeStruct(shape, jnp.float32))
        if self.lacks_head:
            return {name: x for name, x in params.items() if name != "head"}
        return {**params, "head": self._unused_head} if self._unused_head else params

    def as_model(self, loaded: Tree, params: Tree) -> Tree:
        """Returns weights that were loaded with the ends of the model.

        Args:
            loaded: In the structure of `as_stored`.
            params: Weights of the model, or their shapes, for what is not stored.
        """
        if self._is_adapted:
            kernel = np.asarray(_read(loaded))
            adapted = adapt_channels(kernel, self._in_chans, axis=2)
            loaded = _replace(loaded, jnp.asarray(adapted))
        return {name: loaded.get(name, params[name]) for name in params}


def is_same_kind(description: Mapping[str, Any], model: nnx.Module) -> bool:
    """Returns whether a description is of a model of another model's family."""
    name = description.get("model", {}).get("name", "")
    family = family_of(model)
    return family is not None and name in family.configs and find_family(name) is family


def _describe_head(dim: int, num_classes: int) -> Tree:
    shapes = {"bias": (num_classes,), "kernel": (dim, num_classes)}
    return {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in shapes.items()}


def _read(params: Tree) -> Any:
    for name in _KERNEL:
        params = params[name]
    return params


def _replace(tree: Any, kernel: Any, path: tuple[str, ...] = _KERNEL) -> Any:
    """Returns weights with another kernel of the first layer."""
    if not path:
        return kernel
    return {**tree, path[0]: _replace(tree[path[0]], kernel, path[1:])}
