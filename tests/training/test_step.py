import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from litv2_jax.models.state import split_state
from litv2_jax.training.step import TrainState, make_train_step


class Regression:
    """A task without statistics or draws: its parts average to the whole."""

    def augment(self, batch, key):
        return batch

    def loss(self, model, batch, rngs):
        error = model(batch["x"]) - batch["y"]
        return jnp.mean(error**2), {"error": jnp.abs(error).mean()}


def sgd() -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.sgd(0.1))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
    rng = np.random.default_rng(0)
    batch = {
        name: rng.standard_normal((8, size)).astype(np.float32)
        for name, size in (("x", 3), ("y", 2))
    }
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graphdef = nnx.split(model, nnx.Param, nnx.BatchStat)[0]
    step = make_train_step(
        graphdef, Regression(), sgd(), lambda step: 0.1, accumulation_steps=parts
    )
    kernel, bias = (np.array(x[...]) for x in (model.kernel, model.bias))
    state, scalars = step(
        TrainState.begin(*split_state(model), sgd()), batch, jax.random.key(0)
    )

    error = batch["x"] @ kernel + bias - batch["y"]
    expected = kernel - 0.1 * batch["x"].T @ error * 2 / error.size
    np.testing.assert_allclose(state.params["kernel"], expected, atol=1e-6)
    np.testing.assert_allclose(scalars["loss"], (error**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(scalars["error"], np.abs(error).mean(), rtol=1e-6)
    assert int(state.step) == 1
