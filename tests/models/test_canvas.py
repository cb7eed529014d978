"""Images of several sizes in one canvas, against each image alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.models import create_model
from litv2_jax.models.hilo import HiLo
from litv2_jax.models.image_sizes import find_map_sizes
from litv2_jax.ops.resize import resize_bilinear
from tests.reference import fill

TINY = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
# Compiling takes longer than running.
FAST = {"xla_backend_optimization_level": 0}
# Of maps and logits up to 10.
TOLERANCE = 4e-5


def draw_canvas(height: int, width: int, count: int) -> np.ndarray:
    """Noise everywhere: what is beyond an image must not matter."""
    shape = (count, height, width, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def crop(x: jax.Array, row: int, size) -> np.ndarray:
    height, width = size
    return np.asarray(x[row : row + 1, :height, :width])


def create_segmenter(**options):
    return fill(
        lambda: create_model("semantic_fpn_litv2_s", rngs=nnx.Rngs(0), **options)
    )


def assert_as_alone(model, canvas, sizes, new_sizes, rows):
    """Compares maps and logits of a canvas with those of some of its images."""
    images = draw_canvas(*canvas, len(sizes))

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(model, images, sizes, new_sizes):
        logits = model.segment(images, sizes, new_sizes, (96, 112))
        return model.features(images, sizes), logits

    maps, logits = run(model, images, sizes, new_sizes)
    map_sizes = find_map_sizes(jnp.asarray(sizes))

    @functools.partial(jax.jit, static_argnums=2, compiler_options=FAST)
    def run_alone(model, image, size):
        logits = resize_bilinear(model(image), image.shape[1:3])
        return model.features(image), resize_bilinear(logits, size)

    for row in rows:
        size, new_size = sizes[row], new_sizes[row]
        image = crop(images, row, size)
        maps_alone, logits_alone = run_alone(model, image, tuple(new_size.tolist()))
        for x, part, alone in zip(maps, map_sizes, maps_alone, strict=True):
            assert tuple(part[row]) == alone.shape[1:3]
            np.testing.assert_allclose(crop(x, row, part[row]), alone, atol=TOLERANCE)
        found = crop(logits, row, new_size)
        np.testing.assert_allclose(found, logits_alone, atol=TOLERANCE)


# The size of an image alone takes a program of its own.
@pytest.mark.parametrize("row", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_maps_and_logits_are_those_of_each_image_alone(row):
    """Odd sizes, windows of 4 and 2 that divide none of the maps."""
    sizes = {"fpn_dim": 16, "head_dim": 8, "num_classes": 5, **TINY}
    model = create_segmenter(window_sizes=(0, 4, 2, 1), alpha=0.5, **sizes)
    sizes, new_sizes = np.array([[[53, 61], [37, 99]], [[90, 75], [40, 111]]])
    assert_as_alone(model, (72, 108), sizes, new_sizes, [row])


@pytest.mark.slow
@pytest.mark.parametrize("window", [2, 4])
def test_maps_and_logits_of_litv2_s_are_those_of_each_image_alone(window):
    model = create_segmenter(window_sizes=(0, 0, window, 1))
    sizes = np.array([[131, 150], [97, 197], [33, 29]])
    assert_as_alone(model, (131, 197), sizes, sizes // 2 + 11, range(3))


def test_images_too_small_for_the_last_stage_count_as_29_pixels():
    """With zeros beyond; alone, they are refused."""
    images, size = draw_canvas(36, 44, 1), np.array([[20, 41]])
    model = create_model("litv2_s", rngs=nnx.Rngs(0), **TINY)
    run = jax.jit(lambda model, *x: model.features(*x)[-1], compiler_options=FAST)
    padded = np.pad(images[:, :20, :41], [(0, 0), (0, 9), (0, 0), (0, 0)])
    found = crop(run(model, images, size), 0, (1, 1))
    np.testing.assert_allclose(found, run(model, padded), atol=TOLERANCE)


@pytest.mark.parametrize(("window", "alpha"), [(1, 0.5), (2, 0.5), (3, 0.0), (3, 1.0)])
def test_attention_keeps_within_each_image(window, alpha):
    layer = HiLo(8, 4, window, alpha, rngs=nnx.Rngs(0))
    run = jax.jit(lambda layer, *inputs: layer(*inputs), compiler_options=FAST)
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
    model = nnx.eval_shape(lambda: create_model("litv2_s", rngs=nnx.Rngs(0), **TINY))
    with pytest.raises(ValueError, match=message):
        model.features(draw_canvas(72, 108, 3), np.array(sizes))


def test_batch_norm_takes_no_statistics_of_what_is_beyond():
    def run(images):
        model = create_model("litv2_s", rngs=nnx.Rngs(0), **TINY)
        model = nnx.view(model, use_running_average=False)
        return model.features(images, jnp.array([[30, 40]]))

    with pytest.raises(ValueError, match="call the model without sizes to train it"):
        jax.eval_shape(run, draw_canvas(36, 44, 1))
