"""Writes models as StableHLO, which runs without this package."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.augment.normalize import normalize
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.family import family_of
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError

PROGRAM, WEIGHTS, DESCRIPTION = "model.stablehlo", "weights.npz", "export.json"
PLATFORMS = ("cpu", "cuda")
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


def write_stablehlo(
    model: nnx.Module,
    folder: str | PathLike,
    spec: InputSpec | None = None,
    *,
    weights_inside: bool = False,
    platforms: Sequence[str] = PLATFORMS,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as a program that needs JAX, but neither Flax nor this package.

    The folder gets `model.stablehlo`, which `jax.export.deserialize` reads;
    `weights.npz`, unless they are inside; and `export.json`, which says what goes in
    and what comes out. docs/deployment.md has the lines that run it.

    A classifier gives logits [B, K], or without classes features [B, C]; Semantic FPN
    logits [B, ceil(H / 4), ceil(W / 4), K]; a detector takes sizes and original sizes,
    int32 [B, 2], besides the images, and gives what its `detect` returns, by name.

    Args:
        model: From `create_model` or `fuse_for_inference`.
        folder: To create; it may exist if it is empty.
        spec: What the program takes.
        weights_inside: Whether the program holds its weights, so that one file is all.
        platforms: What it can run on: `cpu`, `cuda`, `rocm` or `tpu`.
        description: What else to write into `export.json`.

    Raises:
        ConfigError: If there is something in the folder, flatbuffers is not installed,
            or a detector is to take images of any number or size.
        ValueError: If this is only a part of a model.
    """
    spec = spec or InputSpec()
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"A {type(model).__name__} is only a part of a model: export what "
            "create_model returns."
        )
    is_detector = family.task == "detection"
    if is_detector and not (spec.batch_size and spec.image_size):
        raise ConfigError(
            "A detector is exported for one number and one size of images: give "
            "image_size and batch_size."
        )
    folder = expand_path(Path(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: name a folder to create.")
    run, weights = _split(model, spec, is_detector)
    in_chans = model.backbone.config.in_chans  # pyright: ignore
    shape = spec.shape(in_chans)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.dtype(spec.input_type))]
    if is_detector:
        sizes = jax.ShapeDtypeStruct((spec.batch_size, 2), jnp.int32)
        arguments += [sizes, sizes]
    if weights_inside:
        exported = _export(lambda *inputs: run(weights, *inputs), platforms, arguments)
    else:
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in weights]
        exported = _export(run, platforms, [shapes, *arguments])
    program = _serialize(exported)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program)
    if not weights_inside:
        np.savez(folder / WEIGHTS, *map(np.asarray, weights))
    facts = {
        "task": family.task,
        "images": spec.describe(in_chans),
        "outputs": {
            name: {"shape": [str(side) for side in x.shape], "type": x.dtype.name}
            for name, x in outputs.items()
        },
        "weights": "inside" if weights_inside else WEIGHTS,
        "platforms": list(platforms),
        "jax": jax.__version__,
        **(description or {}),
    }
    (folder / DESCRIPTION).write_text(json.dumps(facts, indent=2, default=list) + "\n")
    return folder


def _split(
    model: nnx.Module, spec: InputSpec, is_detector: bool
) -> tuple[Callable[..., dict[str, jax.Array]], list[jax.Array]]:
    """Returns a function of weights and inputs, and the weights, of types of NumPy's.

    Weights in bfloat16 are written as float32, which holds them exactly.
    """
    graphdef, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(nnx.as_pure(state))
    types = [leaf.dtype for leaf in leaves]
    as_float32 = {jnp.dtype("bfloat16"): jnp.dtype("float32")}
    weights = [leaf.astype(as_float32.get(leaf.dtype, leaf.dtype)) for leaf in leaves]

    def run(weights: list[jax.Array], images: jax.Array, *sizes: jax.Array):
        typed = [x.astype(t) for x, t in zip(weights, types, strict=True)]
        model: Any = nnx.merge(graphdef, jax.tree.unflatten(structure, typed))
        if not spec.is_normalized:
            images = normalize(images)
        if not is_detector:
            has_head = not isinstance(model, Classifier) or model.head is not None
            return {"logits" if has_head else "features": model(images)}
        found = dataclasses.asdict(model.detect(images, *sizes))
        return {name: x for name, x in found.items() if x is not None}

    return run, weights


def _export(
    function: Callable[..., Any], platforms: Sequence[str], arguments: Sequence[Any]
) -> jax.export.Exported:
    return jax.export.export(jax.jit(function), platforms=platforms)(*arguments)


def _serialize(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ConfigError(
            "Exporting needs flatbuffers: pip install 'litv2_jax[export]'."
        ) from None
