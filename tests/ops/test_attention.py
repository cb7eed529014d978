import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops import attention
from litv2_jax.ops.attention import (
    attend_even_lengths,
    attend_in_windows,
    lengths_per_image,
)
from litv2_jax.ops.implementations import OPERATIONS

WINDOW_ATTENTION = OPERATIONS["window_attention"].implementations
# On a CPU there is no cuDNN.
ATTENTION = {
    name: function
    for name, function in OPERATIONS["attention"].implementations.items()
    if name != "cudnn"
}

# Window size, then height and width of the map.
WINDOWS = [(2, 4, 6), (3, 6, 3), (4, 4, 8)]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@functools.partial(jax.jit, static_argnums=0)
def differentiate(function, cotangent, *arguments):
    y, backward = jax.vjp(function, *arguments)
    return y, *backward(cotangent)


def assert_close(actual, expected, rtol, atol):
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def attend_window_by_window(qkv, *, num_heads, window_size, scale):
    """The same, cut out by hand."""
    batch, height, width, _ = qkv.shape
    s = window_size
    rows = []
    for i in range(0, height, s):
        row = []
        for j in range(0, width, s):
            window = qkv[:, i : i + s, j : j + s].reshape(
                batch, s * s, 3, num_heads, -1
            )
            q, k, v = (window[:, :, n] for n in range(3))
            y = jax.nn.dot_product_attention(q, k, v, scale=scale)
            row.append(y.reshape(batch, s, s, -1))
        rows.append(jnp.concatenate(row, axis=2))
    return jnp.concatenate(rows, axis=1)


@pytest.mark.gpu
@pytest.mark.parametrize(("window_size", "height", "width"), WINDOWS)
def test_windows_attend_to_themselves(window_size, height, width):
    options = {"num_heads": 2, "window_size": window_size, "scale": 0.7}
    arguments = draw(2, height, width, 10, seed=1), draw(2, height, width, 3 * 2 * 5)
    expected = differentiate(
        functools.partial(attend_window_by_window, **options), *arguments
    )
    for form in WINDOW_ATTENTION.values():
        actual = differentiate(functools.partial(form, **options), *arguments)
        assert_close(actual, expected, rtol=1e-5, atol=2e-6)


def test_the_chosen_form_gets_all_options():
    options = {"num_heads": 3, "window_size": 2, "scale": 0.2}
    qkv, cotangent = draw(1, 4, 2, 3 * 3 * 4), draw(1, 4, 2, 12, seed=1)
    actual = differentiate(
        functools.partial(attend_in_windows, **options), cotangent, qkv
    )
    expected = differentiate(
        functools.partial(attend_window_by_window, **options), cotangent, qkv
    )
    assert_close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("form", WINDOW_ATTENTION)
def test_windows_in_bfloat16_are_close(form):
    options = {"num_heads": 2, "window_size": 2, "scale": 0.7}
    qkv = draw(2, 4, 6, 30).astype(jnp.bfloat16)
    cotangent = draw(2, 4, 6, 10, seed=1).astype(jnp.bfloat16)
    function = functools.partial(WINDOW_ATTENTION[form], **options)
    actual = differentiate(function, cotangent, qkv)
    exact = differentiate(
        function, cotangent.astype(jnp.float32), qkv.astype(jnp.float32)
    )
    # Three digits, and gradients of what was rounded.
    expected = [x.astype(jnp.bfloat16) for x in exact]
    assert_close(actual, expected, rtol=0.02, atol=0.03)


# One object, so that all forms are compared with one program.
attend_by_jax = functools.partial(jax.nn.dot_product_attention, scale=0.7)


def draw_attention(num_queries, num_keys, heads=2, dim=4):
    q = draw(2, num_queries, heads, dim)
    k, v = (draw(2, num_keys, heads, dim, seed=seed) for seed in (1, 2))
    return draw(*q.shape, seed=3), q, k, v


@pytest.mark.gpu
# Neither number is a multiple of eight, to which rows are padded, then both are.
@pytest.mark.parametrize("form", ATTENTION)
@pytest.mark.parametrize("sizes", [(5, 3), (196, 49), (1, 1), (8, 16)])
def test_attention_is_that_of_jax(sizes, form):
    arguments = draw_attention(*sizes)
    function = functools.partial(ATTENTION[form], scale=0.7)
    actual = differentiate(function, *arguments)
    expected = differentiate(attend_by_jax, *arguments)
    assert_close(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.gpu
# JAX's own way takes the arguments that cuDNN is given, so that a CPU can check them.
@pytest.mark.parametrize("sizes", [(5, 3), (196, 49), (49, 49), (4, 2), (1, 2)])
def test_what_is_added_to_be_even_counts_for_nothing(sizes):
    arguments = draw_attention(*sizes)
    function = functools.partial(attend_even_lengths, scale=0.7, implementation="xla")
    actual = differentiate(function, *arguments)
    expected = differentiate(attend_by_jax, *arguments)
    assert_close(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("form", [*ATTENTION, "even"])
def test_an_image_has_keys_of_its_own_number(form):
    even = functools.partial(attend_even_lengths, implementation="xla")
    function = functools.partial(ATTENTION.get(form, even), scale=0.7)
    cotangent, q, k, v = draw_attention(5, 11)
    found = differentiate(
        lambda *x: function(*x, jnp.array([11, 3])), cotangent, q, k, v
    )
    for row, count in enumerate((11, 3)):
        image = slice(row, row + 1)
        keys, values = k[image, :count], v[image, :count]
        expected = differentiate(
            attend_by_jax,
            *(cotangent[image], q[image], keys, values),
        )
        y, grad_q, grad_k, grad_v = (x[image] for x in found)
        assert not grad_k[:, count:].any()
        found_here = (y, grad_q, grad_k[:, :count], grad_v[:, :count])
        assert_close(found_here, expected, rtol=1e-5, atol=5e-6)


def test_lengths_lie_where_the_images_are():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    q = jax.device_put(draw(16, 5, 2, 8), split)
    lengths = jax.jit(lengths_per_image, static_argnums=0)(5, q)
    assert lengths.tolist() == [5] * 16
    assert lengths.sharding.is_equivalent_to(split, 1)


@pytest.mark.parametrize(
    ("dtype", "dim", "has_cudnn", "expected"),
    [
        (jnp.bfloat16, 32, True, True),
        (jnp.float16, 128, True, True),
        (jnp.bfloat16, 32, False, False),
        (jnp.float32, 32, True, False),
        (jnp.bfloat16, 20, True, False),
        (jnp.bfloat16, 136, True, False),
    ],
)
def test_cudnn_is_left_what_it_takes(monkeypatch, dtype, dim, has_cudnn, expected):
    calls = []

    def attend_on_a_gpu(*arrays, scale, implementation):
        calls.append(implementation)
        return attend_even_lengths(*arrays, scale=scale, implementation="xla")

    monkeypatch.setattr(attention, "has_cudnn_attention", lambda: has_cudnn)
    monkeypatch.setattr(attention, "attend_even_lengths", attend_on_a_gpu)
    q, k, v = (x.astype(dtype) for x in draw_attention(6, 3, dim=dim)[1:])
    y = OPERATIONS["attention"].implementations["gpu"](q, k, v, scale=0.7)
    assert calls == ["cudnn"] * expected
    assert y.dtype == dtype
    assert y.shape == q.shape


@pytest.mark.gpu
@pytest.mark.parametrize("form", ATTENTION)
def test_attention_in_bfloat16_is_close(form):
    arguments = [x.astype(jnp.bfloat16) for x in draw_attention(21, 9)]
    function = functools.partial(ATTENTION[form], scale=0.7)
    actual = differentiate(function, *arguments)
    exact = differentiate(
        attend_by_jax,
        *(x.astype(jnp.float32) for x in arguments),
    )
    expected = [x.astype(jnp.bfloat16) for x in exact]
    # Weights and products of the backward pass are rounded to three digits.
    assert_close(actual, expected, rtol=0.02, atol=0.06)


@pytest.mark.gpu
@pytest.mark.parametrize("form", [*ATTENTION, *WINDOW_ATTENTION])
def test_far_off_logits_stay_finite(form):
    if form in ATTENTION:
        function = functools.partial(ATTENTION[form], scale=1e4)
        found = differentiate(function, *draw_attention(5, 3))
    else:
        options = {"num_heads": 2, "window_size": 2, "scale": 1e4}
        function = functools.partial(WINDOW_ATTENTION[form], **options)
        found = differentiate(function, draw(1, 2, 4, 8, seed=1), draw(1, 2, 4, 24))
    assert all(np.isfinite(x).all() for x in found)
    # Each query takes the one value whose logit is the largest.
    assert np.abs(found[0]).max() > 0.5


@pytest.mark.gpu
@pytest.mark.skipif(
    not attention.has_cudnn_attention(), reason="needs an NVIDIA GPU from Ampere on"
)
@pytest.mark.parametrize("num_keys", [49, 50, 144])
@pytest.mark.parametrize("num_queries", [49, 196])
def test_cudnn_matches_float32(num_queries, num_keys):
    arrays = [draw(4, n, 3, 32, seed=n) for n in (num_queries, num_keys, num_keys)]
    implementations = OPERATIONS["attention"].implementations
    plain = functools.partial(implementations["plain"], scale=0.2)
    expected = differentiate(plain, jnp.cos(arrays[0]), *arrays)
    cudnn = functools.partial(implementations["cudnn"], scale=0.2)
    half = [x.astype(jnp.bfloat16) for x in (jnp.cos(arrays[0]), *arrays)]
    actual = differentiate(cudnn, *half)
    # bfloat16 has eight bits: of the largest value, which is 1 to 4.
    assert_close(
        [x.astype(jnp.float32) for x in actual], expected, rtol=0.02, atol=0.02
    )
