"""Weights that have been found, and how they go into a model."""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.class_names import display_names
from litv2_jax.convert import identify
from litv2_jax.convert.apply import match_weights
from litv2_jax.convert.model_arrays import head_entries, torch_entries
from litv2_jax.convert.rules import AXES_FROM_TORCH
from litv2_jax.settings import ConfigError
from litv2_jax.weights.stored_ends import StoredEnds, is_same_kind

# What to do with the head where the classes are others.
HEADS = ("new", "keep")

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights in the structure of a model.

    Attributes:
        params: Weights; where they are new, those that were given.
        stats: Running statistics.
        new: Paths of what is not from the weights, such as `head/kernel`.
        notes: Sentences to print: what is new, and why.
    """

    params: Tree
    stats: Tree
    new: list[str]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Weights(abc.ABC):
    """A set of weights on disk.

    Attributes:
        path: Where they are, for messages.
        description: Of their model, as checkpoints store it: `model`, `input`,
            `class_names`, and `are_heads_known` if that is in doubt.
    """

    path: Path
    description: dict[str, Any]

    @abc.abstractmethod
    def load(
        self,
        model: nnx.Module,
        params: Tree,
        stats: Tree,
        *,
        head: str = "new",
        class_names: Sequence[str] = (),
    ) -> Loaded:
        """Returns the weights in the structure of a model.

        The backbone alone is taken if the model is of another kind, such as a
        segmentation model for the weights of a classifier.

        Args:
            model: The model, of which shapes are enough.
            params: Weights, or their shapes, that stay where there are none.
            stats: The same of the running statistics.
            head: `new` leaves the head as it is if the classes are others, in number
                or in name; `keep` takes it, and another number is an error.
            class_names: What the model's classes are called, if that is known.

        Raises:
            ConfigError, ValueError: If the weights are damaged or do not fit.
        """


@dataclasses.dataclass(frozen=True)
class TorchWeights(Weights):
    """Weights by PyTorch name, from a file or a model folder; see `Weights`."""

    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def load(
        self,
        model: nnx.Module,
        params: Tree,
        stats: Tree,
        *,
        head: str = "new",
        class_names: Sequence[str] = (),
    ) -> Loaded:
        """Returns the weights in the structure of a model; see `Weights`."""
        note = explain_new_head(self, model, class_names) if head == "new" else ""
        try:
            match = match_weights(model, self.arrays, new_head=bool(note))
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}") from None
        found = {
            entry.path: array.transpose(AXES_FROM_TORCH[array.ndim])
            for entry, array in match.pairs
        }
        trees = {"params": params, "stats": stats}
        filled = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _pick(path, leaf, found), trees
        )
        missing = set(match.missing)
        if note:
            missing |= {entry.torch_name for entry in head_entries(model)}
        new = sorted(e.path for e in torch_entries(model) if e.torch_name in missing)
        notes = [*self.notes, *match.warnings, *[note] * bool(note)]
        return Loaded(filled["params"], filled["stats"], new, notes)


def _pick(path: tuple[Any, ...], leaf: Any, found: dict[str, np.ndarray]) -> Any:
    name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
    return jnp.asarray(found[name], leaf.dtype) if name in found else leaf


@dataclasses.dataclass(frozen=True)
class CheckpointWeights(Weights):
    """A checkpoint of this project, or the best one of a run; see `Weights`."""

    def load(
        self,
        model: nnx.Module,
        params: Tree,
        stats: Tree,
        *,
        head: str = "new",
        class_names: Sequence[str] = (),
    ) -> Loaded:
        """Returns the weights in the structure of a model; see `Weights`."""
        from litv2_jax.checkpoints import initialize_from

        note = explain_new_head(self, model, class_names) if head == "new" else ""
        skipped = sorted(e.path for e in head_entries(model)) if note else []
        ends = StoredEnds(model, self.description)
        if ends.lacks_head and not note:
            raise ConfigError(
                f"{self.path} has no head: create the model with num_classes=0, which "
                "returns features, or give it the number of classes of a new head."
            )
        loaded, stats, parts = initialize_from(
            self.path, ends.as_stored(params), stats, skipped=skipped
        )
        notes = [*ends.notes, *[note] * bool(note)]
        if parts:
            notes.append(
                f"Only the backbone is taken from {self.path}, which is of another "
                f"kind of model; {', '.join(parts)} are new."
            )
        loaded = ends.as_model(loaded, params)
        return Loaded(loaded, stats, parts or skipped, notes)


def explain_new_head(
    weights: Weights, model: nnx.Module, class_names: Sequence[str]
) -> str:
    """Returns a sentence if weights are of other classes than a model, or ""."""
    head = head_entries(model)
    stored = weights.description
    if not head or not is_same_kind(stored, model):
        return ""
    shapes = {entry.torch_name: entry.torch_shape for entry in torch_entries(model)}
    there, here = stored["model"]["num_classes"], identify.num_classes_of(shapes)
    names = display_names(stored.get("class_names") or [])
    ours = display_names(class_names)
    if not there:
        reason = f"{weights.path} has none"
    elif there != here:
        reason = f"for {here} classes instead of the {there} of {weights.path}"
    elif names and ours and sorted(names) != sorted(ours):
        reason = f"the classes are others than those of {weights.path}"
    else:
        return ""
    arrays = ", ".join(sorted(entry.path for entry in head))
    return f"The head ({arrays}) is new: {reason}. It has to be trained."
