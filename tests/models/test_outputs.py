import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.models import create_model

SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


@pytest.mark.parametrize("name", ["litv2_s", "semantic_fpn_litv2_s"])
def test_classes_can_be_put_in_another_order(name):
    dense = {"fpn_dim": 8, "head_dim": 8} if name.startswith("semantic") else {}
    model = create_model(name, rngs=nnx.Rngs(0), num_classes=4, **SIZES, **dense)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)))
    run = jax.jit(lambda model, images: model(images))
    before = run(model, images)
    assert np.ptp(before) > 0
    model.reorder_classes([2, 0, 3, 1])
    np.testing.assert_array_equal(run(model, images), before[..., [2, 0, 3, 1]])
