"""Writes models as ONNX, for ONNX Runtime, OpenVINO and TensorRT."""

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx

from litv2_jax.models.detector import check_canvas
from litv2_jax.models.mask_rcnn import MaskRcnn
from litv2_jax.models.retinanet import ANCHORS as RETINANET_ANCHORS
from litv2_jax.models.retinanet import RetinaNet
from litv2_jax.models.rpn import ANCHORS as RPN_ANCHORS
from litv2_jax.ops.implementations import use_implementation
from litv2_jax.program import (
    InputSpec,
    Program,
    compute_logits,
    find_folder,
    require_family,
    split,
    write_description,
)
from litv2_jax.settings import ConfigError
from litv2_jax.to_onnx.fusions import fuse
from litv2_jax.to_onnx.graph import OPSET, Graph
from litv2_jax.to_onnx.shapes import sides
from litv2_jax.to_onnx.translate import translate

PROGRAM = "model.onnx"
# Those with operations of ONNX: a grouped convolution, no padding for tensor cores.
_IMPLEMENTATIONS = {
    "attention": "plain",
    "depthwise": "convolution",
    "layer_norm": "sum",
    "window_attention": "batched",
}


def write_onnx(
    model: nnx.Module,
    folder: str | PathLike,
    spec: InputSpec | None = None,
    *,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as an ONNX file, and what goes in and comes out.

    The folder gets `model.onnx` and `export.json`; docs/deployment.md has the lines
    that run it. The input is called `images`, [B, H, W, 3].

    A classifier gives `logits` [B, K], or without classes `features` [B, C]; Semantic
    FPN `logits` [B, ceil(H / 4), ceil(W / 4), K]. Detectors give what their networks
    compute before boxes are chosen, for each level p of the pyramid, of stride 2^p:
    RetinaNet `logits_p3` [B, h, w, A * K] and `deltas_p3` [B, h, w, A * 4]; Mask R-CNN
    `level_p2` [B, h, w, C], `rpn_logits_p2` [B, h, w, A] and `rpn_deltas_p2`.

    Args:
        model: From `create_model` or `fuse_for_inference`, in float32.
        folder: To create; it may exist if it is empty.
        spec: What the program takes; the size of images must be given.
        description: What else to write into `export.json`.

    Raises:
        ConfigError: If there is something in the folder, the size is not given, or the
            model does not compute in float32.
        ValueError: If this is only a part of a model, or images of a detector are of
            sides that 32 does not divide.
        NotImplementedError: If the model has an operation that is not translated.
    """
    spec = spec or InputSpec()
    family = require_family(model)
    backbone: Any = model.backbone  # pyright: ignore
    if spec.image_size is None:
        raise ConfigError(
            "ONNX is written for one size of images: give image_size (--image-size), "
            "or export StableHLO."
        )
    if jnp.dtype(backbone.dtype) != jnp.float32:
        raise ConfigError(
            f"The model computes in {jnp.dtype(backbone.dtype).name}, which ONNX "
            "Runtime lacks on CPUs: export it in float32 (--dtype float32), and let "
            "the runtime round it, such as TensorRT's --fp16."
        )
    folder = find_folder(folder)
    in_chans = backbone.config.in_chans
    program = split(model, spec, _choose_outputs(model))
    images = jax.ShapeDtypeStruct(spec.shape(in_chans), jnp.dtype(spec.input_type))
    written, outputs = _translate(program, images)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(written, folder / PROGRAM)
    write_description(
        folder,
        family,
        spec.describe(in_chans),
        outputs,
        opset=OPSET,
        onnx=onnx.__version__,
        jax=jax.__version__,
        **(description or {}),
    )
    return folder


def _translate(
    program: Program, images: jax.ShapeDtypeStruct
) -> tuple[onnx.ModelProto, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the model in ONNX, and shapes and types of its outputs by name."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.weights]
    trace = jax.make_jaxpr(program.run, return_shape=True)
    with use_implementation(**_IMPLEMENTATIONS):
        jaxpr, outputs = trace(shapes, images)
    graph = Graph()
    weights = [
        graph.constant(np.asarray(x), name)
        for x, name in zip(program.weights, program.names, strict=True)
    ]
    pixels = graph.add_input("images", sides(images.shape), images.dtype)
    # A dictionary comes out by the order of its keys.
    values = translate(graph, jaxpr, [*weights, pixels])
    fuse(graph)
    return graph.write(dict(zip(sorted(outputs), values, strict=True))), outputs


def _choose_outputs(model: nnx.Module) -> Callable[..., dict[str, jax.Array]]:
    if isinstance(model, RetinaNet):
        return _compute_retinanet
    if isinstance(model, MaskRcnn):
        return _compute_mask_rcnn
    return compute_logits


def _compute_retinanet(model: RetinaNet, images: jax.Array) -> dict[str, jax.Array]:
    check_canvas(images)
    logits, deltas = model(images)
    strides = RETINANET_ANCHORS.strides
    return {**_name("logits", strides, logits), **_name("deltas", strides, deltas)}


def _compute_mask_rcnn(model: MaskRcnn, images: jax.Array) -> dict[str, jax.Array]:
    check_canvas(images)
    levels = model(images)
    logits, deltas = zip(*map(model.rpn, levels), strict=True)
    outputs = {"level": levels, "rpn_logits": logits, "rpn_deltas": deltas}
    named = [_name(key, RPN_ANCHORS.strides, maps) for key, maps in outputs.items()]
    return {name: x for part in named for name, x in part.items()}


def _name(
    name: str, strides: Sequence[int], maps: Sequence[jax.Array]
) -> dict[str, jax.Array]:
    """Names maps by their level p, of stride 2^p."""
    levels = [int(math.log2(stride)) for stride in strides]
    return {f"{name}_p{p}": x for p, x in zip(levels, maps, strict=True)}
