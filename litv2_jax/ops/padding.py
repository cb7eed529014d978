"""Zeros around a map."""

import jax
import jax.numpy as jnp


def pad_map(
    x: jax.Array, rows: tuple[int, int] = (0, 0), columns: tuple[int, int] = (0, 0)
) -> jax.Array:
    """Puts zeros around a map: [B, H, W, C] -> [B, r + H + r', c + W + c', C].

    As `jnp.pad`, which makes it a function of its own: on a CPU, XLA keeps one that is
    called often apart, and writes the map before it as well.

    Args:
        x: [B, H, W, C].
        rows: How many before and after, (r, r').
        columns: The same, (c, c').
    """
    widths = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)
