"""What all exports share: inputs, weights, checks, and a description of them."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.augment.normalize import normalize
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.family import Family, family_of
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError

DESCRIPTION = "export.json"
_INPUT_TYPES = ("float32", "uint8")
# Of dynamic sides; the strides of all stages divide it.
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a program takes.

    Attributes:
        image_size: Height and width in pixels; None for any multiples of 32.
        batch_size: Images of a batch; None for any number.
        input_type: `float32`, or `uint8` for pixels.
        is_normalized: Whether the program gets what `normalize` returns; else it
            normalizes pixels of 0 to 255 by itself.
    """

    image_size: tuple[int, int] | None = (224, 224)
    batch_size: int | None = None
    input_type: str = "float32"
    is_normalized: bool = True

    def __post_init__(self):
        if self.input_type not in _INPUT_TYPES:
            raise ConfigError(
                f"The type of the input is {self.input_type!r} but must be one of "
                f"{', '.join(_INPUT_TYPES)}."
            )
        if self.input_type == "uint8" and self.is_normalized:
            raise ConfigError(
                "Images of type uint8 cannot have been normalized: let the program "
                "normalize them (normalize=True, --normalize), or take float32."
            )
        numbers = [self.batch_size or 1, *(self.image_size or ())]
        if min(numbers) < 1:
            raise ConfigError(
                f"A batch of {self.batch_size} images of size {self.image_size} cannot "
                "be exported: both must be 1 or more."
            )

    def shape(self, in_chans: int = 3) -> tuple[Any, ...]:
        """Returns [B, H, W, in_chans], with symbols for what is dynamic."""
        height, width = self.image_size or (f"{_MULTIPLE}*h", f"{_MULTIPLE}*w")
        batch = self.batch_size or "b"
        return tuple(
            jax.export.symbolic_shape(f"{batch}, {height}, {width}, {in_chans}")
        )

    def describe(self, in_chans: int = 3) -> dict[str, Any]:
        """Returns the same in JSON."""
        return {
            "shape": [str(side) for side in self.shape(in_chans)],
            "type": self.input_type,
            "pixels": "normalized by ImageNet's mean and standard deviation"
            if self.is_normalized
            else "0 to 255",
        }


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as a function of weights and inputs.

    Attributes:
        run: Returns the outputs by name, given the list of weights and the inputs.
        names: Of the weights, such as `head.kernel`.
        weights: Arrays, of types that NumPy has: bfloat16 becomes float32, which holds
            it exactly.
    """

    run: Callable[..., dict[str, jax.Array]]
    names: list[str]
    weights: list[jax.Array]


def split(
    model: nnx.Module, spec: InputSpec, compute: Callable[..., dict[str, jax.Array]]
) -> Program:
    """Returns the program of a model.

    Args:
        model: From `create_model` or `fuse_for_inference`.
        spec: What the program takes.
        compute: Returns outputs by name, given the model, normalized images and the
            other inputs.
    """
    # The batch as a whole: a loop over its images would be one of this machine's.
    graphdef, state = nnx.split(nnx.view(model, images_at_once=0))
    leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.as_pure(state))
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves
    ]
    types = [leaf.dtype for _, leaf in leaves]
    as_float32 = {jnp.dtype("bfloat16"): jnp.dtype("float32")}
    weights = [
        leaf.astype(as_float32.get(leaf.dtype, leaf.dtype)) for _, leaf in leaves
    ]

    def run(weights: list[jax.Array], images: jax.Array, *inputs: jax.Array):
        typed = [x.astype(t) for x, t in zip(weights, types, strict=True)]
        model: Any = nnx.merge(graphdef, jax.tree.unflatten(structure, typed))
        if not spec.is_normalized:
            images = normalize(images)
        return compute(model, images, *inputs)

    return Program(run, names, weights)


def compute_logits(model: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the output of a classifier or a segmentation model, by its name."""
    has_head = not isinstance(model, Classifier) or model.head is not None
    return {"logits" if has_head else "features": model(images)}


def require_family(model: nnx.Module) -> Family:
    """Returns the family of a model.

    Raises:
        ValueError: If this is only a part of a model.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"A {type(model).__name__} is only a part of a model: export what "
            "create_model returns."
        )
    return family


def find_folder(folder: str | PathLike) -> Path:
    """Returns the folder to create.

    Raises:
        ConfigError: If there is something in it.
    """
    folder = expand_path(Path(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: name a folder to create.")
    return folder


def write_description(
    folder: Path,
    family: Family,
    images: Mapping[str, Any],
    outputs: Mapping[str, Any],
    **facts: Any,
) -> None:
    """Writes `export.json`.

    Args:
        folder: To write it to.
        family: Of the model.
        images: From `InputSpec.describe`.
        outputs: Arrays or their shapes and types, by name.
        **facts: What else to write.
    """
    described = {
        name: {"shape": [str(side) for side in x.shape], "type": np.dtype(x.dtype).name}
        for name, x in outputs.items()
    }
    facts = {"task": family.task, "images": images, "outputs": described, **facts}
    (folder / DESCRIPTION).write_text(json.dumps(facts, indent=2, default=list) + "\n")
