"""Each primitive computes the same in ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytest.importorskip("onnx", reason="pip install 'litv2_jax[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="pip install 'litv2_jax[test]'")

from litv2_jax.to_onnx.fusions import fuse  # noqa: E402
from litv2_jax.to_onnx.graph import Graph  # noqa: E402
from litv2_jax.to_onnx.translate import translate  # noqa: E402

# Of an array [B, 4, 6, 3] and a positive one of the same shape.
FUNCTIONS = {
    "unary": lambda x, y: (
        jnp.abs(x) + jnp.sign(x) * jnp.floor(x) - lax.erf(-x) * jnp.tanh(x),
        jnp.exp(x) + lax.rsqrt(y) + jnp.sqrt(y) * lax.logistic(x) + jnp.square(x),
    ),
    "comparisons": lambda x, y: (
        jnp.where((x < y) & (x >= -1) & (x != 0), x, jnp.maximum(-y, 1 / y)),
        jnp.where((x <= 0) & (y > 1), 1, jnp.minimum(x, 2)),
        (x == x.astype(jnp.int32)).astype(jnp.float32),
    ),
    "parts": lambda x, y: (
        jnp.concatenate([x[:, 1:3], y[:, :2]], 1),
        jnp.stack([x[..., 1], x[..., 0] * y.sum((1, 2, 3), keepdims=True)[..., 0]], 1),
        jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=2),
        lax.slice(x, (0, 1, 0, 0), (*x.shape[:2], 5, 3), (1, 2, 2, 1)),
        jnp.split(y, [1, 3], 2)[1],
        jnp.take(x, np.array([0, 2, 2]), 1, mode="clip").transpose(0, 3, 1, 2),
        *jnp.unstack(x, axis=3),
    ),
    "products": lambda x, y: (
        jnp.einsum("bhwc,bhvc->bhwv", x, y),
        jnp.einsum("bhwc,hu->buwc", x, np.arange(20.0, dtype=np.float32).reshape(4, 5)),
        jnp.einsum("bhwc,bhwd->bcd", x, y),
        jax.nn.softmax(x) + jax.nn.softmax(x, axis=1),
    ),
    "positions": lambda x, y: (
        x * jnp.arange(6.0)[None, None, :, None] + jnp.arange(3.0)[None, None, None],
        jax.vmap(lambda x, i: x.reshape(24, 3)[i])(x, y[:, :, 0, 0].astype(jnp.int32)),
        x + jnp.broadcast_to(jnp.max(y, (1, 2), keepdims=True), y.shape),
        jnp.concatenate([x, jnp.broadcast_to(x[:, :, :1], x.shape)], 1),
    ),
    "convolution": lambda x, y: lax.conv_general_dilated(
        x,
        np.arange(54.0, dtype=np.float32).reshape(3, 3, 1, 6),
        (1, 2),
        ((1, 0), (2, 1)),
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    ),
}


def write(function, count):
    """Returns the model of a function of two arrays."""
    arrays = [jax.ShapeDtypeStruct((count, 4, 6, 3), jnp.float32) for _ in "xy"]
    jaxpr = jax.make_jaxpr(function)(*arrays)
    graph, shape = Graph(), ("b", 4, 6, 3)
    inputs = [graph.add_input(name, shape, np.float32) for name in "xy"]
    values = translate(graph, jaxpr, inputs)
    fuse(graph)
    return graph.write({f"out{i}": value for i, value in enumerate(values)})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_agree(name):
    (batch,) = jax.export.symbolic_shape("b")
    model = write(FUNCTIONS[name], batch)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    x = random.normal(0, 2, (2, 4, 6, 3)).astype(np.float32).round(1)
    y = np.abs(x[::-1]) + 0.5
    found = session.run(None, {"x": x, "y": y})
    for array, expected in zip(
        found, jax.tree.leaves(FUNCTIONS[name](x, y)), strict=True
    ):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


def test_what_has_no_rule_is_named():
    with pytest.raises(NotImplementedError, match=r"uses jax\.lax\.cumsum, which has"):
        write(lambda x, y: jnp.cumsum(x, 1) + y, 2)


def test_indices_that_may_be_out_of_bounds_are_refused():
    with pytest.raises(NotImplementedError, match="Indices may be out of bounds"):
        write(lambda x, y: x + jnp.take(y, np.array([0, 1, 2, 4]), 1, mode="clip"), 2)


def test_something_repeated_for_each_image_is_refused():
    (batch,) = jax.export.symbolic_shape("b")
    with pytest.raises(NotImplementedError, match="is repeated for each image"):
        write(lambda x, y: jnp.zeros_like(y), batch)
