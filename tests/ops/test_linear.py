import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax import use_implementation
from litv2_jax.ops.linear import add_bias, multiply


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 4, 7)])
@pytest.mark.parametrize("features", [3, 11])
@pytest.mark.parametrize("gradient", ["plain", "kernel_first"])
def test_product_and_gradients_are_those_of_jax(shape, features, gradient):
    x, kernel = draw(*shape), draw(7, features, seed=1)
    cotangent = draw(*shape[:-1], features, seed=2)
    with use_implementation(linear_gradient=gradient):
        found, expected = (
            (y, *backward(cotangent))
            for y, backward in (jax.vjp(f, x, kernel) for f in (multiply, jnp.matmul))
        )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


def test_a_result_may_have_more_digits_than_gradients():
    x, kernel = (y.astype(jnp.bfloat16) for y in (draw(6, 7), draw(7, 3, seed=1)))
    y, backward = jax.vjp(lambda *args: multiply(*args, jnp.float32), x, kernel)
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    assert y.dtype == jnp.float32
    assert {grad.dtype for grad in backward(y)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("function", "shape"),
    [(multiply, (7, 3)), (add_bias, (7,))],
    ids=["multiply", "add_bias"],
)
def test_gradients_have_the_digits_of_the_parameter(function, shape):
    """Sums over 1,200 positions of what was rounded to bfloat16."""
    x, parameter = draw(4, 20, 15, 7).astype(jnp.bfloat16), draw(*shape, seed=1)
    y, backward = jax.vjp(function, x, parameter)
    cotangent = draw(*y.shape, seed=2).astype(jnp.bfloat16)
    grad_x, grad = jax.jit(backward)(cotangent)

    flat, flat_grad = (
        np.asarray(z, np.float64).reshape(-1, z.shape[-1]) for z in (x, cotangent)
    )
    expected = flat.T @ flat_grad if function is multiply else flat_grad.sum(0)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-4)
    assert (y.dtype, grad_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert grad.dtype == jnp.float32


def compile_kernel_gradient(function):
    x, kernel, grad = draw(2, 6, 10, 8), draw(8, 32), draw(2, 6, 10, 32)
    run = jax.jit(lambda x, kernel, grad: jax.vjp(function, x, kernel)[1](grad)[1])
    return run.lower(x, kernel, grad).compile().as_text()


def test_a_cpu_copies_no_map_for_the_gradient_of_a_kernel():
    for function, copies in ((jnp.matmul, True), (multiply, False)):
        program = compile_kernel_gradient(function)
        assert " dot(" in program
        assert (" copy(" in program or " transpose(" in program) == copies


@pytest.mark.parametrize(("rows", "depends"), [(6, True), (7, False)])
def test_the_platform_matters_to_gradients_of_few_vectors(rows, depends):
    def differentiate(x, kernel, grad):
        return jax.vjp(multiply, x, kernel)[1](grad)

    arguments = draw(rows, 7), draw(7, 11), draw(rows, 11)
    program = str(jax.make_jaxpr(differentiate)(*arguments))
    assert ("platform_index" in program) == depends
