import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.attention.focal import FocalAttention
from tests.benchmarks.attention.test_layers import (
    FLOAT32,
    compute,
    random,
    seen_by,
    strengthen,
)

SIDE, RING, SQUARE, HEADS = 3, 1, 3, 4


def create(square=SQUARE):
    """Returns a layer with small windows and biases that matter."""
    layer = FocalAttention(
        24,
        HEADS,
        window_size=SIDE,
        ring=RING,
        square=square,
        dtype=FLOAT32,
        rngs=nnx.Rngs(0),
    )
    for name in ("window_bias", "ring_bias", "pooled_bias"):
        bias = getattr(layer, name)
        bias[...] = random(*bias.shape)
    layer.pool.kernel[...] = random(SIDE**2, 1)
    layer.pool.bias[...] = random(1)
    return strengthen(layer)


def test_it_is_what_loops_over_windows_and_keys_compute():
    layer, x = create(), random(2, 7, 11, 24)
    found, expected = compute(layer, x), compute_slowly(layer, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def compute_slowly(layer, x):
    """The definition, for one window after the other."""
    filled = np.pad(x, [(0, 0), (0, 2), (0, 1), (0, 0)])
    height, width = filled.shape[1:3]
    y = np.zeros_like(filled)
    for top in range(0, height, SIDE):
        for left in range(0, width, SIDE):
            window = filled[:, top : top + SIDE, left : left + SIDE]
            keys, bias = list_keys_slowly(layer, filled, top, left)
            y[:, top : top + SIDE, left : left + SIDE] = attend_slowly(
                layer, window, keys, bias
            )
    return y[:, : x.shape[1], : x.shape[2]]


def list_keys_slowly(layer, x, top, left):
    """Returns keys before projection [B, M, C], and biases [heads, N, M]."""
    height, width = x.shape[1:3]
    window = list(np.ndindex(SIDE, SIDE))
    queries = np.array(window)
    keys, biases = [], []
    table = np.array(layer.window_bias[...]).reshape(HEADS, 5, 5)
    for row, column in window:
        keys.append(x[:, top + row, left + column])
        down, right = (queries - (row, column) + SIDE - 1).T
        biases.append(table[:, down, right])
    for down, right in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        for row, column in window:
            y, z = row - down * RING, column - right * RING
            if not (0 <= y < SIDE and 0 <= z < SIDE):
                keys.append(x[:, (top + y) % height, (left + z) % width])
    biases += list(np.array(layer.ring_bias[...]).transpose(2, 0, 1))
    table = np.array(layer.pooled_bias[...]).reshape(HEADS, 5, 5)
    for row, column in np.ndindex(SQUARE, SQUARE):
        y, z = top + SIDE * (row - 1), left + SIDE * (column - 1)
        if 0 <= y < height and 0 <= z < width:
            cut = x[:, y : y + SIDE, z : z + SIDE].reshape(len(x), SIDE**2, -1)
            pooled = np.einsum("bnc,n->bc", cut, layer.pool.kernel[...][:, 0])
            keys.append(pooled + np.array(layer.pool.bias[...]))
            down, right = (queries - (row, column) + SQUARE - 1).T
            biases.append(table[:, down, right])
    return np.stack(keys, 1), np.stack(biases, -1)


def attend_slowly(layer, window, keys, bias):
    """Returns the output [B, side, side, C] of a window."""
    kernel, offset = np.array(layer.qkv.kernel[...]), np.array(layer.qkv.bias[...])

    def project(tokens, part):
        columns = slice(24 * part, 24 * (part + 1))
        y = tokens @ kernel[:, columns] + offset[columns]
        return y.reshape(*y.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)

    q = project(window.reshape(len(window), SIDE**2, -1), 0)
    k, v = project(keys, 1), project(keys, 2)
    logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3]) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    y = y.transpose(0, 2, 1, 3).reshape(window.shape)
    return np.array(layer.out(jnp.asarray(y)))


@pytest.mark.parametrize(
    ("square", "row", "column", "rows", "columns"),
    [
        # The window and its ring, then also the windows around it.
        (1, 4, 7, range(2, 7), range(5, 10)),
        (3, 4, 7, range(9), range(3, 12)),
        # At a corner the ring is at the other edges, too.
        (1, 0, 0, (0, 1, 2, 3, 8), (0, 1, 2, 3, 14)),
    ],
)
def test_it_sees_near_positions_and_pooled_windows(square, row, column, rows, columns):
    expected = np.zeros((9, 15), bool)
    expected[np.ix_(rows, columns)] = True
    see = seen_by(create(square), (1, 9, 15, 24))
    np.testing.assert_array_equal(see(row, column), expected)


def test_a_map_of_one_window_is_refused():
    message = "A map of 9 x 3 has nothing around a window of 3 x 3; use .* 4 x 4"
    with pytest.raises(ValueError, match=message):
        create()(random(1, 9, 3, 24))
