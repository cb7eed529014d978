"""Formulations of the parts of LITv2 that the package does not use, to measure them.

Each computes the same as the operation of `litv2_jax` that its docstring names.
"""

import inspect

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from litv2_jax.models.hilo import HiLo
from litv2_jax.models.layer_norm import EPSILON
from litv2_jax.ops.attention import attend, attend_in_windows
from litv2_jax.ops.deform_conv import sample_taps
from litv2_jax.ops.implementations import OPERATIONS

# The operations without the derivatives that are written by hand.
differentiate_depthwise = inspect.unwrap(
    OPERATIONS["depthwise"].implementations["shifts"]
)
differentiate_sample_taps = inspect.unwrap(sample_taps)


def merge_by_autodiff(x: jax.Array, offsets: jax.Array, kernel: jax.Array) -> jax.Array:
    """`deform_conv` with the derivative that JAX finds."""
    return _multiply_taps(differentiate_sample_taps(x, offsets), kernel)


def merge_by_matrices(x: jax.Array, offsets: jax.Array, kernel: jax.Array) -> jax.Array:
    """`deform_conv` by a matrix of all taps and all pixels, without gather or scatter.

    Its size grows with the fourth power of the side of the map.
    """
    batch, height, width, channels = x.shape
    rows, cols = offsets.shape[1:3]
    size = kernel.shape[0]
    moves = offsets.reshape(batch, rows, cols, size, size, 2)
    first_y = size * jnp.arange(rows)[None, :, None, None, None]
    first_x = size * jnp.arange(cols)[None, None, :, None, None]
    taps = jnp.arange(size)
    y = moves[..., 0] + (first_y + taps[None, None, None, :, None])
    x_ = moves[..., 1] + (first_x + taps[None, None, None, None, :])
    weights = _weigh(y, height)[..., :, None] * _weigh(x_, width)[..., None, :]
    weights = weights.astype(x.dtype).reshape(batch, -1, height * width)
    sampled = weights @ x.reshape(batch, height * width, channels)
    return _multiply_taps(sampled.reshape(batch, rows, cols, -1, channels), kernel)


def _weigh(positions: jax.Array, size: int) -> jax.Array:
    """Returns the bilinear weights of the pixels of a line: [...] -> [..., size]."""
    counts = (positions > -1) & (positions < size)
    below = jnp.floor(positions)[..., None]
    share = positions[..., None] - below
    pixels = jnp.arange(size).reshape((1,) * positions.ndim + (-1,))
    weights = jnp.where(pixels == below, 1 - share, 0.0)
    weights += jnp.where(pixels == below + 1, share, 0.0)
    return jnp.where(counts[..., None], weights, 0.0)


def _multiply_taps(taps: jax.Array, kernel: jax.Array) -> jax.Array:
    taps = rearrange(taps, "b r c t d -> b r c (t d)")
    return taps @ kernel.reshape(-1, kernel.shape[-1]).astype(taps.dtype)


def project_separately(layer: HiLo, x: jax.Array) -> jax.Array:
    """`HiLo` with a product for each projection."""
    qkv = layer.high_qkv(x) if layer.high_heads else None
    kv = layer.low_kv(_average(x, layer.window_size))
    return _attend(layer, qkv, layer.low_q(x), kv)


def average_projected(layer: HiLo, x: jax.Array) -> jax.Array:
    """`HiLo` with one product for all projections, which averages keys and values."""
    layers = [layer.low_q, layer.low_kv]
    layers = [layer.high_qkv, *layers] if layer.high_heads else layers
    dtype = layer.low_q.dtype
    kernel = jnp.concatenate([one.kernel[...] for one in layers], axis=1)
    bias = jnp.concatenate([one.bias[...] for one in layers if one.bias is not None])
    y = x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)[None, None, None]
    low = layer.low_q.out_features
    qkv, q, kv = jnp.split(y, [y.shape[-1] - 3 * low, y.shape[-1] - 2 * low], axis=-1)
    return _attend(layer, qkv, q, _average(kv, layer.window_size))


def _attend(
    layer: HiLo, qkv: jax.Array | None, q: jax.Array, kv: jax.Array
) -> jax.Array:
    """All of `HiLo` that comes after the projections."""
    heads, height = layer.low_heads, q.shape[1]
    q = rearrange(q, "b h w (n d) -> b (h w) n d", n=heads)
    k, v = rearrange(kv, "b h w (k n d) -> k b (h w) n d", k=2, n=heads)
    low: jax.Array = attend(q, k, v, layer.scale)
    low = layer.low_out(rearrange(low, "b (h w) n d -> b h w (n d)", h=height))
    if qkv is None or not layer.high_heads:
        return low
    high = attend_in_windows(
        qkv,
        num_heads=layer.high_heads,
        window_size=layer.window_size,
        scale=layer.scale,
    )
    return jnp.concatenate([layer.high_out(high), low], axis=-1)


def _average(x: jax.Array, size: int) -> jax.Array:
    return reduce(x, "b (r s) (c t) d -> b r c d", "mean", s=size, t=size)


def normalise_by_flax(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """`layer_norm` by flax."""
    norm = nnx.LayerNorm(
        x.shape[-1],
        epsilon=EPSILON,
        use_fast_variance=False,
        dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    graphdef, _ = nnx.split(norm)
    return nnx.merge(graphdef, nnx.State({"scale": scale, "bias": bias}))(x)
