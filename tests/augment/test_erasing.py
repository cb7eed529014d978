import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from litv2_jax.augment.erasing import (
    count_most_pixels,
    cover,
    draw_boxes,
    erase,
    fill,
)

SIZE = (37, 53)
NUM_BOXES = 20_000
NUM_IMAGES = 400
run_erase = jax.jit(erase)
run_draw_boxes = jax.jit(draw_boxes, static_argnames=("num_boxes", "size"))


def draw(size=SIZE):
    boxes = run_draw_boxes(jax.random.key(0), NUM_BOXES, size)
    left, top, right, bottom = np.asarray(boxes).T
    return {"left": left, "top": top, "width": right - left, "height": bottom - top}


def draw_as_timm(size, rng):
    """The loop of timm's RandomErasing, for one box."""
    height, width = size
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        box_height = round(math.sqrt(area * aspect))
        box_width = round(math.sqrt(area / aspect))
        if box_width < width and box_height < height:
            top = rng.integers(0, height - box_height, endpoint=True)
            left = rng.integers(0, width - box_width, endpoint=True)
            return left, top, box_width, box_height
    return 0, 0, 0, 0


def test_boxes_are_distributed_as_those_of_timm():
    rng = np.random.default_rng(0)
    theirs = np.array([draw_as_timm(SIZE, rng) for _ in range(NUM_BOXES)]).T
    ours = draw()
    for name, expected in zip(["left", "top", "width", "height"], theirs, strict=True):
        assert stats.ks_2samp(ours[name], expected).pvalue > 0.01, name
    area = ours["width"] * ours["height"]
    assert stats.ks_2samp(area, theirs[2] * theirs[3]).pvalue > 0.01
    aspect = ours["height"] / ours["width"]
    assert stats.ks_2samp(aspect, theirs[3] / theirs[2]).pvalue > 0.01


def test_boxes_keep_to_their_limits():
    size = (224, 192)
    boxes = draw(size)
    share = boxes["width"] * boxes["height"] / (224 * 192)
    aspect = boxes["height"] / boxes["width"]
    # Sides are rounded to whole pixels.
    assert 0.019 < share.min() < 0.021
    assert 0.33 < share.max() < 0.336
    assert 0.29 < aspect.min() < 0.31
    assert 3.25 < aspect.max() < 3.45
    for side, start, length in zip(
        ("height", "width"), ("top", "left"), size, strict=True
    ):
        assert boxes[side].max() < length
        assert boxes[start].min() == 0
        assert (boxes[start] + boxes[side]).max() == length


def test_position_and_size_are_drawn_apart():
    boxes = draw()
    for start, side, length in (("left", "width", 53), ("top", "height", 37)):
        place = boxes[start] / (length - boxes[side])
        assert abs(np.corrcoef(place, boxes[side])[0, 1]) < 0.03
    places = (
        boxes["left"] / (53 - boxes["width"]),
        boxes["top"] / (37 - boxes["height"]),
    )
    assert abs(np.corrcoef(*places)[0, 1]) < 0.03

    boxes = draw((40, 40))
    is_square = boxes["width"] == boxes["height"]
    left, top = boxes["left"][is_square], boxes["top"][is_square]
    sizes = 40 - boxes["width"][is_square]
    assert abs(np.corrcoef(left / sizes, top / sizes)[0, 1]) < 0.1


def test_a_box_that_never_fits_erases_nothing():
    # Every box of 4 to 67 pixels with such an aspect has at least one row.
    boxes = draw((1, 200))
    assert not boxes["height"].any()
    assert not boxes["width"].any()
    images = jnp.ones((5, 1, 200, 3))
    erased = run_erase(images, jax.random.key(0), probability=1.0)
    np.testing.assert_array_equal(erased, 1)


def test_a_later_attempt_counts_where_the_first_does_not_fit():
    rng = np.random.default_rng(0)
    size = (8, 100)
    theirs = np.array([draw_as_timm(size, rng) for _ in range(NUM_BOXES)]).T
    ours = draw(size)
    assert stats.ks_2samp(ours["height"], theirs[3]).pvalue > 0.01
    assert stats.ks_2samp(ours["width"], theirs[2]).pvalue > 0.01


def test_cover_is_the_inside_of_the_box():
    expected = np.zeros((2, 7, 5), bool)
    expected[0, 2:6, 1:4] = True
    boxes = jnp.array([[1, 2, 4, 6], [3, 3, 3, 3]])
    np.testing.assert_array_equal(cover(boxes, (7, 5)), expected)


def test_a_box_is_filled_row_by_row():
    boxes = jnp.array([[1, 2, 4, 6], [0, 0, 5, 2]])
    values = np.arange(2 * 12 * 2).reshape(2, 12, 2)
    filled = np.asarray(fill(boxes, values, (7, 5)))
    np.testing.assert_array_equal(filled[0, 2:6, 1:4].reshape(12, 2), values[0])
    np.testing.assert_array_equal(filled[1, :2].reshape(10, 2), values[1, :10])


@pytest.mark.parametrize("size", [SIZE, (8, 100), (32, 32), (3, 3), (1, 200)])
def test_the_largest_box_has_as_many_pixels_as_said(size):
    boxes = draw(size)
    most = (boxes["width"] * boxes["height"]).max()
    assert most <= count_most_pixels(size) <= size[0] * size[1]
    # Nearly all boxes are smaller by the rounding.
    assert most > 0.8 * count_most_pixels(size) or min(size) < 9


def erase_constants(probability, seed=0):
    """Erases images of a value that noise does not have; tells where it did."""
    images = jnp.full((NUM_IMAGES, *SIZE, 3), 100.0)
    erased = run_erase(images, jax.random.key(seed), probability=probability)
    return np.asarray(erased), np.asarray(erased != 100)


def test_as_many_images_are_erased_as_said():
    masks = [erase_constants(0.25, seed)[1].any((1, 2, 3)) for seed in range(5)]
    assert abs(np.mean(masks) - 0.25) < 0.03


def test_erased_is_one_box_over_all_channels():
    _, is_erased = erase_constants(1.0)
    assert (is_erased == is_erased[..., :1]).all()
    for mask in is_erased[..., 0]:
        box = mask.any(axis=1)[:, None] & mask.any(axis=0)
        np.testing.assert_array_equal(mask, box)
        for side in (mask.any(axis=0), mask.any(axis=1)):
            assert np.ptp(np.flatnonzero(side)) + 1 == side.sum() < len(side)


def test_erased_pixels_are_normal_noise_and_others_stay():
    erased, is_erased = erase_constants(0.5)
    noise = erased[is_erased]
    assert stats.kstest(noise[:50_000], "norm").pvalue > 0.01
    first, second = (erased[is_erased[..., 0]][:, channel] for channel in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    # So has every image, and every pixel: float32 has few equal ones among so many.
    middle = erased[is_erased[:, 18, 26, 0], 18, 26, 0]
    assert len(set(middle)) == len(middle) > 20
    assert len(set(noise[:50_000])) > 49_500


def test_probabilities_of_zero_and_one_mean_never_and_always():
    assert not erase_constants(0.0)[1].any()
    assert erase_constants(1.0)[1].any((1, 2, 3)).all()


def test_the_same_key_gives_the_same_images():
    first, again, other = (erase_constants(0.5, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_images_keep_their_type():
    images = jnp.zeros((2, 8, 9, 3), jnp.bfloat16)
    erased = jax.eval_shape(run_erase, images, jax.random.key(0), probability=0.5)
    assert erased.dtype == jnp.bfloat16
