"""Model families: one record for each kind of model, which all else reads."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.backbone import BackboneConfig

# Of arrays, by their PyTorch names, in PyTorch's layouts.
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one kind of model apart from the others.

    Attributes:
        task: What the models are for, such as `segmentation`.
        module: Class of the models, called as `module(config, dtype=..., rngs=...)`.
            They keep the backbone, a `Backbone`, in `backbone`.
        configs: Sizes by the name of the model, the published ones: dataclasses with
            fields `backbone`, a `BackboneConfig`, and `num_classes`; whatever fields
            they have beside these are arguments of `create_model` as well.
        torch_names: PyTorch names of the attributes of the family's own modules, as in
            `convert.rules`.
        torch_heads: PyTorch names of the layers whose outputs are classes; the first
            one tells the family.
        torch_entry: Under which name the original saves its weights.
        torch_sizes: By the name of a size, how to read it off the shapes of PyTorch's
            arrays; 0 for what they do not show.
        class_names: Published list of classes, for so many as the configs have.
        describe_input: Returns how the published models were evaluated, given the side
            of their images.
        norms_to_fold: Yields each LayerNorm outside of the blocks whose scale and bias
            fusing may fold into the layer after it, and that layer.
        count_flops: Returns `Flops` of a model for one image, given height and width.
    """

    task: str
    module: type[nnx.Module]
    configs: Mapping[str, Any]
    torch_names: Mapping[type, Mapping[str, str]]
    torch_heads: tuple[str, ...]
    torch_entry: str
    torch_sizes: Mapping[str, Callable[[Shapes], int]]
    class_names: str
    describe_input: Callable[[int], dict[str, Any]]
    norms_to_fold: Callable[[Any], Iterator[tuple[Any, Any]]]
    count_flops: Callable[[Any, tuple[int, int]], Any]

    @property
    def torch_backbone(self) -> str:
        """PyTorch name of the backbone; empty if it is the model itself."""
        return self.torch_names[self.module]["backbone"]

    @property
    def published_classes(self) -> int:
        """Number of classes of the published models."""
        return next(iter(self.configs.values())).num_classes

    @property
    def published_channels(self) -> int:
        """Channels of the images that the published models take."""
        return next(iter(self.configs.values())).backbone.in_chans


def side_of(name: str, axis: int = 0) -> Callable[[Shapes], int]:
    """Returns a function that reads one side of an array, for `Family.torch_sizes`."""

    def read(shapes: Shapes) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if axis < len(shape) else 0

    return read


def count_of(pattern: str) -> Callable[[Shapes], int]:
    """Returns a function that counts the names that match a regular expression."""
    return lambda shapes: sum(bool(re.fullmatch(pattern, name)) for name in shapes)


_FAMILIES: list[Family] = []


def register(family: Family) -> Family:
    """Adds a family to those that the package knows, and returns it.

    Raises:
        ValueError: If the name of one of its models is taken.
    """
    taken = sorted(set(family.configs) & set(list_all_models()))
    if taken:
        raise ValueError(f"There are models called {', '.join(taken)} already.")
    _FAMILIES.append(family)
    return family


def unregister(family: Family) -> None:
    """Removes a family that was registered."""
    _FAMILIES.remove(family)


def list_families() -> list[Family]:
    """Returns the families, in the order in which they were registered."""
    return list(_FAMILIES)


def list_all_models() -> list[str]:
    """Returns the names of the models of all families."""
    return [name for family in _FAMILIES for name in family.configs]


def list_models(task: str = "classification") -> list[str]:
    """Returns the names that `create_model` knows.

    Args:
        task: What the models are for, such as `classification` or `segmentation`.

    Raises:
        ValueError: If there are no models for it.
    """
    tasks = list(dict.fromkeys(family.task for family in _FAMILIES))
    if task not in tasks:
        raise ValueError(f"There are no models for {task!r}; use {' or '.join(tasks)}.")
    return [name for f in _FAMILIES if f.task == task for name in f.configs]


def find_family(name: str) -> Family:
    """Returns the family of a model.

    Args:
        name: Of the model, as `create_model` takes it.

    Raises:
        ValueError: If there is no such model.
    """
    for family in _FAMILIES:
        if name in family.configs:
            return family
    names = list_all_models()
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"There is no model called {name!r}; there are {', '.join(names)}.{hint}"
    )


def family_of(model: Any) -> Family | None:
    """Returns the family of a model; None if it is a part of one or unknown."""
    return next((f for f in _FAMILIES if type(model) is f.module), None)


def create_model(
    name: str, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, **sizes: Any
) -> Any:
    """Creates a model with new weights, ready for inference.

    Args:
        name: One of `list_models(task)`.
        rngs: Stream `params` initialises the weights.
        dtype: Type of the computation, float32 or bfloat16; parameters, softmax,
            statistics of the norms and logits stay float32.
        **sizes: What is to differ from the published model: fields of
            `models.backbone.BackboneConfig`, such as `embed_dim`, `depths` (one entry
            for each stage) and `alpha`, and of the model's own configuration, such as
            `num_classes`. None stands for the published size.

    Raises:
        ValueError: If the name is unknown, a size is impossible, or the model has none
            such.
    """
    family = find_family(name)
    config = resize(family.configs[name], sizes, name)
    return family.module(config, dtype=dtype, rngs=rngs)  # pyright: ignore


def resize(config: Any, sizes: Mapping[str, Any], name: str) -> Any:
    """Returns a configuration with other sizes; see `create_model`."""
    known = list_sizes(config)
    for size in sizes:
        if size not in known:
            close = difflib.get_close_matches(size, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name} has no {size}; it has {', '.join(known)}.{hint}")
    sizes = {size: value for size, value in sizes.items() if value is not None}
    of_backbone = _field_names(BackboneConfig) & sizes.keys()
    own = {size: value for size, value in sizes.items() if size not in of_backbone}
    backbone = dataclasses.replace(
        config.backbone, **{size: sizes[size] for size in of_backbone}
    )
    return dataclasses.replace(config, backbone=backbone, **own)


def list_sizes(config: Any) -> list[str]:
    """Returns the names of all sizes in a configuration, its own first."""
    own = [field.name for field in dataclasses.fields(config)]
    backbone = [field.name for field in dataclasses.fields(config.backbone)]
    return [name for name in own if name != "backbone"] + backbone


def _field_names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}  # pyright: ignore
