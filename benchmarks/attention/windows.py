"""Attention inside windows and inside stripes."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

from benchmarks.attention.all_positions import Attention, attend, split_heads
from litv2_jax.models.initializers import uniform

Array = TypeVar("Array", jax.Array, np.ndarray)


def fill_windows(x: jax.Array, side: int) -> jax.Array:
    """Pads [B, H, W, C] right and bottom with zeros to whole windows."""
    pad = [(0, -size % side) for size in x.shape[1:3]]
    return jnp.pad(x, [(0, 0), *pad, (0, 0)])


def to_windows(x: Array, height: int, width: int) -> Array:
    """Cuts [B, H, W, C] into windows [B, windows, height * width, C]."""
    pattern = "b (r s) (c t) d -> b (r c) (s t) d"
    return rearrange(x, pattern, s=height, t=width)


def from_windows(x: jax.Array, rows: int, height: int, width: int) -> jax.Array:
    """Undoes `to_windows`; there were so many rows of windows."""
    pattern = "b (r c) (s t) d -> b (r s) (c t) d"
    return rearrange(x, pattern, r=rows, s=height, t=width)


class WindowAttention(Attention):
    """Attention inside each window, shifted or not (Swin, arXiv:2103.14030).

    Zeros fill a map that the windows do not divide; they take part as in the original.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        shift: int = 0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        self.window_size, self.shift = window_size, shift

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        s, shift, (height, width) = self.window_size, self.shift, x.shape[1:3]
        x = fill_windows(x, s)
        mask = None
        if shift:
            mask = self._mask(*x.shape[1:3])
            x = jnp.roll(x, (-shift, -shift), (1, 2))
        rows = x.shape[1] // s
        q, k, v = split_heads(self.qkv(to_windows(x, s, s)), 3, self.num_heads)
        x = from_windows(self.out(attend(q, k, v, mask)), rows, s, s)
        if shift:
            x = jnp.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width]

    def _mask(self, height: int, width: int) -> np.ndarray:
        """Returns [1, windows, 1, N, N]: which positions of a window were neighbours.

        The shift moves the first rows and columns behind the last.
        """
        row_is_moved = np.arange(height)[:, None] >= height - self.shift
        column_is_moved = np.arange(width)[None] >= width - self.shift
        origin = (2 * row_is_moved + column_is_moved)[None, :, :, None]
        origin = to_windows(origin, self.window_size, self.window_size)
        return (origin == origin.swapaxes(-1, -2))[:, :, None]


class PositionConv(nnx.Module):
    """Depthwise 3x3 convolution with bias; zeros outside.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(uniform(fan_in=9)(rngs.params(), (3, 3, dim)))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        # A sum of shifted products is many times as fast on a CPU as XLA's grouped
        # convolution.
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(jnp.float32)
        total, taps = self.bias[...][None, None, None], self.kernel[...]
        for i in range(3):
            for j in range(3):
                shifted = padded[:, i : i + height, j : j + width]
                total += shifted * taps[i, j][None, None, None]
        return total.astype(x.dtype)


class CrossWindow(Attention):
    """Attention inside stripes: half of the heads vertical, half horizontal (CSWin).

    To the values a depthwise convolution inside the stripe is added, which tells
    positions apart (arXiv:2107.00652). Zeros fill a map that stripes do not divide.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        stripe: int = 7,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        self.stripe = stripe
        self.vertical_position = PositionConv(dim // 2, rngs=rngs)
        self.horizontal_position = PositionConv(dim // 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        height, width = x.shape[1:3]
        x = fill_windows(x, self.stripe)
        rows, columns = x.shape[1:3]
        halves = rearrange(self.qkv(x), "b h w (k f c) -> f b h w (k c)", k=3, f=2)
        vertical = self._attend(halves[0], rows, self.stripe, self.vertical_position)
        horizontal = self._attend(
            halves[1], self.stripe, columns, self.horizontal_position
        )
        x = jnp.concatenate([vertical, horizontal], axis=-1)
        return self.out(x)[:, :height, :width]

    def _attend(
        self, qkv: jax.Array, height: int, width: int, position: PositionConv
    ) -> jax.Array:
        """Attends inside stripes: [B, H, W, 3 C / 2] -> [B, H, W, C / 2]."""
        stripes = to_windows(qkv, height, width)
        q, k, v = split_heads(stripes, 3, self.num_heads // 2)
        shape = (*stripes.shape[:3], qkv.shape[-1] // 3)
        maps = position(v.reshape(-1, height, width, shape[-1]))
        x = attend(q, k, v) + maps.reshape(shape)
        return from_windows(x, qkv.shape[1] // height, height, width)
