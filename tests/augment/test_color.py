import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps, ImageStat

from litv2_jax.augment import color
from litv2_jax.ops.histogram import count_levels
from tests.reference import GOLDEN


def make_pictures():
    """A photograph, noise, and what tables have to take care of: [B, 37, 53, 3]."""
    rng = np.random.default_rng(0)
    photo = np.load(GOLDEN / "images.npz")["chelsea_100x76"][20:57, 10:63]
    noise = rng.integers(0, 256, photo.shape)
    one_color = np.zeros(photo.shape) + np.array([0, 77, 255])
    one_pixel = one_color.copy()
    one_pixel[3, 5] = [9, 70, 0]
    few_levels = rng.choice([3, 100, 101, 220], photo.shape)
    return np.stack([photo, noise, one_color, one_pixel, few_levels]).astype(np.uint8)


PICTURES = make_pictures()


def with_pillow(operation, pictures=PICTURES):
    """Applies a function of Pillow to each picture, [B, H, W, 3] or [B, H, W]."""
    return np.stack([np.asarray(operation(Image.fromarray(x))) for x in pictures])


def test_equalizing_is_that_of_pillow():
    tables = color.equalize_table(count_levels(jnp.array(PICTURES)))
    expected = with_pillow(ImageOps.equalize)
    np.testing.assert_array_equal(color.look_up(PICTURES, tables), expected)


def test_autocontrast_is_that_of_pillow():
    tables = color.autocontrast_table(count_levels(jnp.array(PICTURES)))
    expected = with_pillow(ImageOps.autocontrast)
    np.testing.assert_array_equal(color.look_up(PICTURES, tables), expected)


def test_autocontrast_of_any_two_limits_is_computed_as_by_pillow():
    darkest, brightest = np.triu_indices(256, k=1)
    counts = np.zeros((len(darkest), 256, 1), np.int32)
    rows = np.arange(len(darkest))
    counts[rows, darkest] = counts[rows, brightest] = 1
    tables = jax.jit(color.autocontrast_table)(counts)[..., 0]

    # Pillow's line of Python, with its rounding in float64.
    scale = 255.0 / (brightest - darkest)
    expected = np.arange(256) * scale[:, None] + (-darkest * scale)[:, None]
    np.testing.assert_array_equal(tables, np.clip(expected.astype(int), 0, 255))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_posterizing_is_that_of_pillow(bits):
    tables = color.posterize_table(jnp.array([bits, 0, -1]))
    expected = ImageOps.posterize(all_levels(), bits)
    np.testing.assert_array_equal(tables[0, :, 0], np.asarray(expected)[0])
    np.testing.assert_array_equal(tables[1:], 0)


def all_levels():
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])


@pytest.mark.parametrize("threshold", [0, 1, 26, 128, 255, 256])
def test_solarizing_is_that_of_pillow(threshold):
    table = color.solarize_table(jnp.array([threshold]))
    expected = ImageOps.solarize(all_levels(), threshold)
    np.testing.assert_array_equal(table[0, :, 0], np.asarray(expected)[0])


def test_adding_stops_at_white_and_spares_the_bright_levels():
    tables = color.solarize_add_table(jnp.array([0, 99, 128]))[..., 0]
    np.testing.assert_array_equal(tables[0], np.arange(256))
    np.testing.assert_array_equal(tables[1, 125:130], [224, 225, 226, 128, 129])
    np.testing.assert_array_equal(tables[2, 126:129], [254, 255, 128])


def test_tables_are_read_per_image_and_channel():
    tables = np.random.default_rng(0).integers(0, 256, (5, 256, 3)).astype(np.uint8)
    looked_up = jax.jit(color.look_up)(PICTURES, tables)
    for image, channel in np.ndindex(5, 3):
        expected = tables[image, PICTURES[image, ..., channel], channel]
        np.testing.assert_array_equal(looked_up[image, ..., channel], expected)


def test_gray_and_its_mean_are_those_of_pillow():
    expected = with_pillow(lambda picture: picture.convert("L"))
    np.testing.assert_array_equal(color.to_gray(jnp.array(PICTURES)), expected)
    means = [ImageStat.Stat(Image.fromarray(x)).mean[0] for x in expected]
    expected = [int(mean + 0.5) for mean in means]
    np.testing.assert_array_equal(color.average_gray(jnp.array(PICTURES)), expected)


def test_means_halfway_between_two_levels_go_up():
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, 0] = 1
    np.testing.assert_array_equal(color.average_gray(jnp.array(picture)), [1])


@pytest.mark.parametrize("size", [(37, 53), (3, 4), (2, 9), (9, 1)])
def test_smoothing_is_that_of_pillow(size):
    pictures = PICTURES[:, : size[0], : size[1]]
    expected = with_pillow(lambda x: x.filter(ImageFilter.SMOOTH), pictures)
    np.testing.assert_array_equal(color.smooth(jnp.array(pictures)), expected)


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.19, 0.7654321, 1.0, 1.1, 1.9])
def test_blending_any_two_levels_is_that_of_pillow(factor):
    factor = np.float32(factor)
    levels = np.arange(256, dtype=np.uint8)
    start = np.broadcast_to(levels[:, None, None], (256, 256, 3))
    end = np.broadcast_to(levels[None, :, None], (256, 256, 3))
    expected = Image.blend(Image.fromarray(start), Image.fromarray(end), float(factor))

    # The other image of the batch has a factor of its own.
    starts, ends = (np.stack([x, x]) for x in (start, end))
    blended = jax.jit(color.blend)(starts, ends, jnp.array([factor, 1]))

    np.testing.assert_array_equal(blended[0], expected)
    np.testing.assert_array_equal(blended[1], end)
