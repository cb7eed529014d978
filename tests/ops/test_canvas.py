import jax.numpy as jnp
import numpy as np

from litv2_jax.ops.canvas import pack_inside, zero_beyond

SIZES = jnp.array([[2, 3], [3, 1], [3, 4]])
X = np.random.default_rng(0).standard_normal((3, 3, 4, 2)).astype(np.float32)


def test_maps_are_zero_beyond_their_images():
    # Whatever is there, even if it is not finite.
    spoiled = X.copy()
    spoiled[0, 2], spoiled[1, :, 1:] = np.nan, np.inf
    y = zero_beyond(jnp.asarray(spoiled), SIZES)
    for row, (height, width) in enumerate(SIZES.tolist()):
        np.testing.assert_array_equal(y[row, :height, :width], X[row, :height, :width])
        assert np.count_nonzero(y[row]) == height * width * 2


def test_positions_of_an_image_come_first_and_in_order():
    y = pack_inside(jnp.asarray(X), SIZES).reshape(3, 12, 2)
    for row, (height, width) in enumerate(SIZES.tolist()):
        inside = X[row, :height, :width].reshape(-1, 2)
        np.testing.assert_array_equal(y[row, : height * width], inside)
