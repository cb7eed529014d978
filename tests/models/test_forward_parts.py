"""Features and logits under the names that users of timm know."""

import jax
import numpy as np
from flax import nnx

from litv2_jax.models import create_model

SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}


def test_the_two_parts_make_the_logits():
    model = create_model("litv2_s", rngs=nnx.Rngs(0), num_classes=5, **SIZES)
    images = jax.random.normal(jax.random.key(0), (2, 40, 72, 3))

    @jax.jit
    def run(model, images):
        x = model.forward_features(images)
        pooled = model.forward_head(x, pre_logits=True)
        return model(images), x, pooled, model.forward_head(x)

    logits, features, pooled, again = run(model, images)
    assert features.shape == (2, 1, 2, 64)
    np.testing.assert_array_equal(again, logits)
    np.testing.assert_allclose(pooled, np.mean(features, (1, 2)), rtol=1e-5, atol=1e-6)
    kernel, bias = map(np.asarray, (model.head.kernel[...], model.head.bias[...]))
    expected = np.asarray(pooled) @ kernel + bias
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
