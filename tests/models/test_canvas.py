"""Images of several sizes in one canvas, against each image alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.models import create_model
from litv2_jax.models.backbone import find_map_sizes
from litv2_jax.models.hilo import HiLo
from tests.reference import fill

CANVAS = (72, 108)
# Odd ones, and the whole canvas.
SIZES = np.array([[72, 108], [53, 61], [37, 99]])
TINY = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
# What float32 makes of maps up to 10; without a mask the least difference is 0.02.
TOLERANCE = 4e-5


def draw_canvas(canvas=CANVAS, sizes=SIZES) -> np.ndarray:
    """Noise everywhere: what is beyond an image must not matter."""
    shape = (len(sizes), *canvas, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def crop(x: jax.Array, row: int, size) -> np.ndarray:
    height, width = size
    return np.asarray(x[row : row + 1, :height, :width])


@functools.cache
def backbone_of(window: int, alpha: float):
    windows = (0, window, window, 1)
    options = {"window_sizes": windows, "alpha": alpha, **TINY}
    return fill(lambda: create_model("litv2_s", rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(("window", "alpha"), [(2, 0.9), (4, 0.5)])
def test_features_are_those_of_each_image_alone(window, alpha):
    model, images = backbone_of(window, alpha), draw_canvas()
    run = jax.jit(lambda model, *inputs: model.features(*inputs))

    maps = run(model, images, SIZES)

    map_sizes = find_map_sizes(jnp.asarray(SIZES))
    for row, size in enumerate(SIZES):
        alone = run(model, crop(images, row, size))
        for x, sizes, expected in zip(maps, map_sizes, alone, strict=True):
            assert tuple(sizes[row]) == expected.shape[1:3]
            found = crop(x, row, sizes[row])
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("window", "alpha"), [(1, 0.5), (2, 0.5), (3, 0.0), (3, 1.0)])
def test_attention_keeps_within_each_image(window, alpha):
    layer = HiLo(8, 4, window, alpha, rngs=nnx.Rngs(0))
    run = jax.jit(lambda layer, *inputs: layer(*inputs))
    sizes = np.array([[5, 4], [2, 7]])
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 8), np.float32)
    y = run(layer, x, sizes)
    for row, size in enumerate(sizes):
        expected = run(layer, crop(x, row, size))
        np.testing.assert_allclose(crop(y, row, size), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([[64, 64]], r"int32 of shape \[1, 2\], but must be .* of shape \[3, 2\]"),
        ([[64.0, 64]] * 3, r"float32 of shape \[3, 2\], but must be integers"),
        ([[99, 64]] * 3, "within 1 and the height and width of the canvas, 72x108"),
        ([[0, 64]] * 3, "within 1 and the height"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        backbone_of(2, 0.9).features(draw_canvas(), np.array(sizes))


def test_batch_norm_takes_no_statistics_of_what_is_beyond():
    model = nnx.view(backbone_of(2, 0.9), use_running_average=False)
    with pytest.raises(ValueError, match="call the model without sizes to train it"):
        jax.eval_shape(lambda x: model.features(x, SIZES), draw_canvas())
