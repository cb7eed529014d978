"""Focal attention: to what is near position by position, further away window by window.

Where each query looks is known before anything is computed: `list_keys` lists it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

from benchmarks.attention.all_positions import Attention, attend, split_heads
from benchmarks.attention.windows import fill_windows, from_windows, to_windows
from litv2_jax.models.initializers import linear_kernel


class FocalAttention(Attention):
    """Attention to a window, a ring around it and pooled windows (arXiv:2107.00641).

    Two focal levels. The queries of a window have three kinds of keys, each with
    learned biases: the positions of the window, those of the ring, and the windows of a
    square around it, each pooled to one by a learned sum over its positions.

    As in the original, the map continues at its opposite edge for the ring, and zeros
    fill a map that the windows do not divide; they take part.

    Shapes: [B, H, W, C] -> [B, H, W, C], for H and W larger than a window.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        ring: int = 3,
        square: int = 3,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Sets sizes.

        Args:
            dim: Channels.
            num_heads: Heads.
            window_size: Side of a window in positions.
            ring: Width of the ring in positions.
            square: Side of the square in windows, an odd number.
            dtype: Type of the computation.
            rngs: Random streams.
        """
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        self.window_size, self.ring, self.square = window_size, ring, square
        positions = window_size**2
        mean = nnx.initializers.constant(1 / positions)
        self.pool = nnx.Linear(positions, 1, dtype=dtype, kernel_init=mean, rngs=rngs)
        ring_keys = 4 * (positions - (window_size - ring) ** 2)
        pooled_offsets = (window_size + square - 1) ** 2
        self.window_bias = nnx.Param(jnp.zeros((num_heads, (2 * window_size - 1) ** 2)))
        self.ring_bias = _draw_bias(rngs, num_heads, positions, ring_keys)
        self.pooled_bias = _draw_bias(rngs, num_heads, pooled_offsets)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer; raises a ValueError if the map is too small."""
        s, (height, width) = self.window_size, x.shape[1:3]
        _check_size(height, width, s)
        x = fill_windows(x, s)
        rows, columns = x.shape[1] // s, x.shape[2] // s
        indices, is_inside = list_keys(rows, columns, s, self.ring, self.square)
        q, keys = self._project(x)
        k, v = split_heads(keys[:, indices], 2, self.num_heads)
        y = attend(q, k, v, is_inside[None, :, None, None], self._bias()[None, None])
        return from_windows(self.out(y), rows, s, s)[:, :height, :width]

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the queries of each window, and what `list_keys` gives indices of.

        Shapes: [B, H, W, C] -> [B, windows, N, heads, D] and, keys beside values,
        [B, H * W + windows, 2 * C].
        """
        positions = rearrange(x, "b h w c -> b (h w) c")
        tokens = jnp.concatenate([positions, self._pool(x)], axis=1)
        # As in the original, pooled windows have queries, too, which nobody needs.
        q, keys = jnp.split(self.qkv(tokens), [x.shape[3]], axis=-1)
        q = q[:, : positions.shape[1]].reshape(x.shape)
        windows = to_windows(q, self.window_size, self.window_size)
        return split_heads(windows, 1, self.num_heads)[0], keys

    def _pool(self, x: jax.Array) -> jax.Array:
        """Pools each window to one position: [B, H, W, C] -> [B, windows, C]."""
        windows = to_windows(x, self.window_size, self.window_size)
        return self.pool(windows.swapaxes(2, 3))[..., 0]

    def _bias(self) -> jax.Array:
        """Returns what is added to the logits [heads, queries, keys]."""
        s = self.window_size
        window = self.window_bias[...][:, _number_offsets(s, s)]
        pooled = self.pooled_bias[...][:, _number_offsets(s, self.square)]
        return jnp.concatenate([window, self.ring_bias[...], pooled], axis=-1)


def list_keys(
    rows: int, columns: int, window_size: int, ring: int, square: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lists the keys of each window.

    Args:
        rows: Of windows in the map.
        columns: Of windows in the map.
        window_size: Side of a window in positions.
        ring: Width of the ring in positions.
        square: Side of the square in windows.

    Returns:
        Indices [windows, keys] of positions, in the order of the map, and of pooled
        windows, which come after all positions; and which of them are in the map.
    """
    near = _list_near(rows, columns, window_size, ring)
    pooled, is_inside = _list_windows(rows, columns, square)
    indices = np.concatenate([near, rows * columns * window_size**2 + pooled], axis=1)
    return indices, np.concatenate([np.ones_like(near, bool), is_inside], axis=1)


def _list_near(rows: int, columns: int, side: int, ring: int) -> np.ndarray:
    """Returns the positions of each window and of its ring.

    The ring is found by moving the map diagonally, in four directions: what a move
    brings into a window comes from outside. Where two moves bring the same, it counts
    twice, as in the original.
    """
    positions = np.arange(rows * columns * side**2).reshape(rows * side, columns * side)
    found = [_cut(positions, side)]
    for down in (-ring, ring):
        for right in (-ring, ring):
            is_new = _comes_from_outside(side, down)[:, None]
            is_new = (is_new | _comes_from_outside(side, right)).reshape(-1)
            moved = np.roll(positions, (down, right), axis=(0, 1))
            found.append(_cut(moved, side)[:, is_new])
    return np.concatenate(found, axis=1)


def _cut(positions: np.ndarray, side: int) -> np.ndarray:
    """Cuts [H, W] into windows [windows, side * side]."""
    return to_windows(positions[None, :, :, None], side, side)[0, :, :, 0]


def _comes_from_outside(side: int, move: int) -> np.ndarray:
    """Returns which positions of a line are filled from outside if it moves."""
    origin = np.arange(side) - move
    return (origin < 0) | (origin >= side)


def _list_windows(
    rows: int, columns: int, square: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windows of the square around each one, and which are in the map."""
    around = np.arange(square) - square // 2
    row = (np.arange(rows)[:, None] + around)[:, None, :, None]
    column = (np.arange(columns)[:, None] + around)[None, :, None, :]
    is_inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    index = row.clip(0, rows - 1) * columns + column.clip(0, columns - 1)
    shape = (rows * columns, square**2)
    return index.reshape(shape), is_inside.reshape(shape)


def _number_offsets(queries: int, keys: int) -> np.ndarray:
    """Numbers where a square of queries lies relative to one of keys.

    Returns:
        Integers [queries^2, keys^2], equal where rows and columns differ alike.
    """
    offset = np.arange(queries)[:, None] - np.arange(keys) + keys - 1
    row, column = offset[:, None, :, None], offset[None, :, None, :]
    return (row * (queries + keys - 1) + column).reshape(queries**2, keys**2)


def _check_size(height: int, width: int, side: int) -> None:
    if min(height, width) <= side:
        raise ValueError(
            f"A map of {height} x {width} has nothing around a window of {side} x "
            f"{side}; use one of at least {side + 1} x {side + 1}."
        )


def _draw_bias(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
    return nnx.Param(linear_kernel(rngs.params(), shape))
