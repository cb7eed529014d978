"""What `python -m benchmarks layers` compares: implementations of a part, by size."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from benchmarks.programs import rand_augment_options
from litv2_jax import create_model, fuse_for_inference
from litv2_jax.augment.erasing import erase
from litv2_jax.augment.randaugment import rand_augment
from litv2_jax.models.layer_norm import EPSILON
from litv2_jax.ops.attention import attend, attend_in_windows
from litv2_jax.ops.deform_conv import deform_conv, sample_taps
from litv2_jax.ops.depthwise import depthwise_conv3x3_gelu
from litv2_jax.ops.implementations import OPERATIONS
from litv2_jax.ops.layer_norm import layer_norm
from litv2_jax.ops.linear import depends_on_platform, multiply
from litv2_jax.ops.nms import suppress
from litv2_jax.ops.roi_align import roi_align

FORWARD, WITH_BACKWARD = "forward", "with backward"
HEAD_DIM = 32
# Of the levels that RoIAlign reads.
STRIDES = (4, 8, 16, 32)
# On a CPU XLA's grouped convolution of larger maps takes seconds.
LARGEST_GROUPED_ON_CPU = 14


class Implementation(NamedTuple):
    """One way to compute a part.

    Attributes:
        function: Of the arguments of the case; of arrays or a tree of them.
        choices: Implementations by operation, for `use_implementation`.
    """

    function: Callable[..., Any]
    choices: Mapping[str, str] = {}


class Case(NamedTuple):
    """A part at one size.

    Attributes:
        name: The size.
        implementations: By name; the first is in use on this platform.
        arguments: Of every implementation.
        directions: What is measured.
    """

    name: str
    implementations: dict[str, Implementation]
    arguments: tuple[Any, ...]
    directions: tuple[str, ...] = (FORWARD, WITH_BACKWARD)


class Arrays:
    """Draws random arrays for one batch size and type."""

    def __init__(self, batch_size: int, dtype: str):
        self.batch_size = batch_size
        self.dtype = jnp.dtype(dtype)
        self._rng = np.random.default_rng(0)

    def maps(self, *shape: int) -> jax.Array:
        """Returns [B, *shape] in the type of the computation."""
        return self.parameters(self.batch_size, *shape).astype(self.dtype)

    def parameters(self, *shape: int) -> jax.Array:
        """Returns an array of float32."""
        return jnp.asarray(self._rng.standard_normal(shape, np.float32))


def create_depthwise(arrays: Arrays, side: int, channels: int) -> Case:
    """Depthwise 3x3 convolution, bias and GELU."""
    found = _list_choices("depthwise_gradient", depthwise_conv3x3_gelu)
    shifts = inspect.unwrap(OPERATIONS["depthwise_gradient"].implementations["pairs"])
    found["autodiff"] = Implementation(shifts)
    if not _is_cpu() or side <= LARGEST_GROUPED_ON_CPU:
        choices = {"depthwise": "convolution"}
        found["grouped convolution"] = Implementation(depthwise_conv3x3_gelu, choices)
    kernel, bias = arrays.parameters(3, 3, 1, channels), arrays.parameters(channels)
    x = arrays.maps(side, side, channels)
    return Case(f"{side} x {side} x {channels}", found, (x, kernel / 3, bias))


def create_merging(arrays: Arrays, side: int, channels: int, scale: float) -> Case:
    """Sampling at offsets of a standard deviation, and the product with the kernel."""

    def differentiate(x: jax.Array, offsets: jax.Array, kernel: jax.Array):
        taps = inspect.unwrap(sample_taps)(x, offsets)
        taps = rearrange(taps, "b r c t d -> b r c (t d)")
        return taps @ kernel.reshape(-1, kernel.shape[-1]).astype(taps.dtype)

    found = {
        "in use": Implementation(deform_conv),
        "autodiff": Implementation(differentiate),
    }
    # Offsets are float32 in the model, whatever it computes in.
    shape = (arrays.batch_size, side // 2, side // 2, 8)
    offsets = scale * arrays.parameters(*shape)
    kernel = arrays.parameters(2, 2, channels, 2 * channels) / math.sqrt(4 * channels)
    name = f"{side} x {side} x {channels}, offsets {scale:g}"
    return Case(name, found, (arrays.maps(side, side, channels), offsets, kernel))


def create_high(arrays: Arrays, side: int, window_size: int, num_heads: int) -> Case:
    """Attention within windows."""
    function = functools.partial(
        attend_in_windows,
        num_heads=num_heads,
        window_size=window_size,
        scale=HEAD_DIM**-0.5,
    )
    qkv = arrays.maps(side, side, 3 * num_heads * HEAD_DIM)
    found = _list_choices("window_attention", function)
    return Case(f"{side} x {side}, window {window_size}", found, (qkv,))


def create_low(arrays: Arrays, queries: int, keys: int, num_heads: int) -> Case:
    """Attention from all positions to averages of windows."""
    found = _list_choices("attention", functools.partial(attend, scale=HEAD_DIM**-0.5))
    del found["cudnn"]  # It is what "gpu" takes, or does not run.
    if _is_cpu():
        del found["gpu"]
    q, *kv = (arrays.maps(n, num_heads, HEAD_DIM) for n in (queries, keys, keys))
    return Case(f"{queries} x {keys} x {num_heads} heads", found, (q, *kv))


def create_product(arrays: Arrays, side: int, channels: int, features: int) -> Case:
    """The product of a linear layer."""
    function = functools.partial(multiply, dtype=None)
    found = {"flat": Implementation(function)}
    if depends_on_platform(arrays.batch_size * side**2, (channels, features)):
        found = _list_choices("linear_gradient", function)
    found["autodiff"] = Implementation(jnp.matmul)
    kernel = arrays.parameters(channels, features).astype(arrays.dtype)
    name = f"{side} x {side} x {channels}, to {features}"
    return Case(name, found, (arrays.maps(side, side, channels), kernel))


def create_layer_norm(arrays: Arrays, side: int, channels: int) -> Case:
    """Layer normalization."""
    dtype = arrays.dtype
    options: dict[str, Any] = {"epsilon": EPSILON, "dtype": dtype}
    norm = nnx.LayerNorm(channels, **options, use_fast_variance=False, rngs=nnx.Rngs(0))
    graphdef, _ = nnx.split(norm)

    def normalize_by_flax(x: jax.Array, scale: jax.Array, bias: jax.Array):
        return nnx.merge(graphdef, nnx.State({"scale": scale, "bias": bias}))(x)

    found = _list_choices("layer_norm", functools.partial(layer_norm, **options))
    found["flax"] = Implementation(normalize_by_flax)
    x, scale = arrays.maps(side, side, channels), arrays.parameters(channels)
    arguments = (x, scale, arrays.parameters(channels))
    return Case(f"{side} x {side} x {channels}", found, arguments)


def create_fused(arrays: Arrays, image_size: int, sizes: Mapping[str, Any]) -> Case:
    """A model as `fuse_for_inference` leaves it, of the whole batch, and as it was."""
    model = create_model("litv2_s", rngs=nnx.Rngs(0), dtype=arrays.dtype, **sizes)
    fused_model = fuse_for_inference(model)
    fused_graph, fused = nnx.split(fused_model)
    whole_graph = nnx.split(nnx.view(fused_model, images_at_once=0))[0]
    plain_graph, plain = nnx.split(model)
    # Weights are arguments: the compiler would compute with constants. Each
    # implementation ignores those of the other.
    found = {
        "fused": Implementation(
            lambda fused, plain, x: nnx.merge(fused_graph, fused)(x)
        ),
        "whole batch at once": Implementation(
            lambda fused, plain, x: nnx.merge(whole_graph, fused)(x)
        ),
        "as it was": Implementation(
            lambda fused, plain, x: nnx.merge(plain_graph, plain)(x)
        ),
    }
    images = arrays.parameters(arrays.batch_size, image_size, image_size, 3)
    arguments = (nnx.as_pure(fused), nnx.as_pure(plain), images)
    name = f"litv2_s, {image_size} x {image_size}"
    return Case(name, found, arguments, (FORWARD,))


def create_rand_augment(arrays: Arrays, side: int) -> Case:
    """RandAugment as ImageNet's recipe has it, by each way to count levels."""
    augment = functools.partial(rand_augment, **rand_augment_options())
    return _create_augmentation(arrays, side, _list_choices("histogram", augment))


def create_erasing(arrays: Arrays, side: int) -> Case:
    """Random erasing, of a quarter of the images."""
    found = {
        "in use": Implementation(
            lambda x, key: erase(x.astype(arrays.dtype), key, probability=0.25)
        )
    }
    return _create_augmentation(arrays, side, found)


def create_nms(arrays: Arrays, num_boxes: int) -> Case:
    """The hundred best of so many boxes of 80 classes."""
    rng = np.random.default_rng(0)
    count = arrays.batch_size, num_boxes
    corners = rng.uniform(0, 600, (*count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 200, (*count, 2))], -1)
    scores = rng.uniform(size=count)
    arguments = (
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(scores, jnp.float32),
        jnp.asarray(rng.integers(0, 80, count)),
        jnp.ones(count, bool),
    )
    function = jax.vmap(functools.partial(suppress, threshold=0.5, size=100))
    found = {"in use": Implementation(function)}
    return Case(f"{num_boxes} boxes", found, arguments, (FORWARD,))


def create_roi_align(
    arrays: Arrays, height: int, width: int, channels: int, num_boxes: int
) -> Case:
    """Crops of 7 x 7 from four levels, whose finest has this size."""
    rng = np.random.default_rng(0)
    levels = range(len(STRIDES))
    maps = [arrays.maps(height >> i, width >> i, channels) for i in levels]
    limit = STRIDES[0] * np.array([width, height])
    corners = rng.uniform(0, 0.8, (arrays.batch_size, num_boxes, 2))
    ends = corners + rng.uniform(0.02, 0.2, corners.shape)
    boxes = jnp.asarray(np.concatenate([corners * limit, ends * limit], -1), np.float32)
    align = functools.partial(roi_align, bins=7, strides=STRIDES)
    found = {
        "in use": Implementation(jax.vmap(lambda boxes, *maps: align(maps, boxes)))
    }
    return Case(f"{num_boxes} boxes", found, (boxes, *maps))


def _create_augmentation(
    arrays: Arrays, side: int, found: dict[str, Implementation]
) -> Case:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arrays.batch_size, side, side, 3), np.uint8)
    arguments = (jnp.asarray(images), jax.random.key(0))
    return Case(f"{side} x {side}", found, arguments, (FORWARD,))


def _list_choices(
    name: str, function: Callable[..., jax.Array]
) -> dict[str, Implementation]:
    """Returns a function by each implementation of an operation, the used one first."""
    operation = OPERATIONS[name]
    used = operation.cpu if _is_cpu() else operation.default
    in_order = sorted(operation.implementations, key=lambda each: each != used)
    return {each: Implementation(function, {name: each}) for each in in_order}


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


# Name to function, and the arguments that it takes after the first.
PARTS: dict[str, Callable[..., Case]] = {
    "depthwise": create_depthwise,
    "token merging": create_merging,
    "Hi-Fi": create_high,
    "Lo-Fi": create_low,
    "product": create_product,
    "LayerNorm": create_layer_norm,
    "fused inference": create_fused,
    "RandAugment": create_rand_augment,
    "erasing": create_erasing,
    "NMS": create_nms,
    "RoIAlign": create_roi_align,
}
SIZES: dict[str, list[tuple[Any, ...]]] = {
    "depthwise": [(56, 384), (28, 768), (14, 1536), (7, 3072)],
    "token merging": [
        (side, channels, scale)
        for side, channels in ((56, 96), (28, 192), (14, 384))
        for scale in (0.0, 1.0)
    ],
    "Hi-Fi": [(14, 2, 2), (16, 4, 2)],
    "Lo-Fi": [(196, 49, 10), (49, 49, 24)],
    "product": [(56, 96, 384), (56, 384, 96), (14, 384, 1536), (7, 3072, 768)],
    "LayerNorm": [(56, 96), (28, 192), (14, 384), (7, 768)],
    "fused inference": [(224, {})],
    "RandAugment": [(224,)],
    "erasing": [(224,)],
    "NMS": [(1000,), (5000,)],
    "RoIAlign": [(200, 336, 256, 512)],
}
