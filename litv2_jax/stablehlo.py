"""Writes models as StableHLO, which runs without this package."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.program import (
    InputSpec,
    compute_logits,
    find_folder,
    require_family,
    split,
    write_description,
)
from litv2_jax.settings import ConfigError

PROGRAM, WEIGHTS = "model.stablehlo", "weights.npz"
PLATFORMS = ("cpu", "cuda")


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
    family = require_family(model)
    is_detector = family.task == "detection"
    if is_detector and not (spec.batch_size and spec.image_size):
        raise ConfigError(
            "A detector is exported for one number and one size of images: give "
            "image_size and batch_size."
        )
    folder = find_folder(folder)
    program = split(model, spec, _detect if is_detector else compute_logits)
    run, weights = program.run, program.weights
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
    serialized = _serialize(exported)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(serialized)
    if not weights_inside:
        np.savez(folder / WEIGHTS, *map(np.asarray, weights))
    write_description(
        folder,
        family,
        spec.describe(in_chans),
        outputs,
        weights="inside" if weights_inside else WEIGHTS,
        platforms=platforms,
        jax=jax.__version__,
        **(description or {}),
    )
    return folder


def _detect(model: Any, images: jax.Array, *sizes: jax.Array) -> dict[str, jax.Array]:
    found = dataclasses.asdict(model.detect(images, *sizes))
    return {name: x for name, x in found.items() if x is not None}


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
