"""Predictions that are averaged over views, against each image and view alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops import resize
from litv2_jax.ops.canvas import mirror_inside
from litv2_jax.ops.resize import resample_in_steps, resize_bilinear
from litv2_jax.ops.views import View, find_best_classes

PARTS = np.array([[8, 12], [5, 7]])
SIZES = np.array([[31, 47], [20, 27]])
NEW_SIZES = np.array([[14, 20], [24, 11]])
CANVAS = (24, 20)


def draw_logits(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return 3 * generator.standard_normal((2, 8, 12, 5)).astype(np.float32)


def resize_alone(logits: np.ndarray, row: int) -> np.ndarray:
    """Returns the logits of one image after both steps, as PyTorch has them."""
    x = jnp.asarray(logits[row : row + 1, : PARTS[row, 0], : PARTS[row, 1]])
    for size in (SIZES[row], NEW_SIZES[row]):
        x = resize_bilinear(x, (int(size[0]), int(size[1])))
    return np.asarray(x[0])


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_steps_are_those_of_one_resizing_after_the_other(is_mirrored):
    logits, steps = draw_logits(0), [(PARTS, SIZES), (SIZES, NEW_SIZES)]

    @jax.jit
    def resample(x, steps):
        return resample_in_steps(x, steps, CANVAS, is_mirrored=is_mirrored)

    found = resample(logits, steps)
    assert found.shape == (2, *CANVAS, 5)
    for row, (height, width) in enumerate(NEW_SIZES):
        expected = resize_alone(logits, row)
        expected = expected[:, ::-1] if is_mirrored else expected
        part = found[row, :height, :width]
        np.testing.assert_allclose(part, expected, atol=1e-5)


@pytest.mark.parametrize("strip_size", [1, 20 * 5 * 7, 2**24])
def test_probabilities_are_averaged_and_not_logits(strip_size, monkeypatch):
    monkeypatch.setattr(resize, "_STRIP_SIZE", strip_size)
    all_logits, mirrored = [draw_logits(seed) for seed in range(3)], [0, 1, 1]

    @jax.jit
    def find(all_logits, steps):
        views = [
            View(x, steps, bool(is_mirrored))
            for x, is_mirrored in zip(all_logits, mirrored, strict=True)
        ]
        return find_best_classes(views, CANVAS)

    found = find(all_logits, [(PARTS, SIZES), (SIZES, NEW_SIZES)])
    assert (found.shape, found.dtype) == ((2, *CANVAS), np.int32)
    num_other = 0
    for row, (height, width) in enumerate(NEW_SIZES):
        resized = [
            resize_alone(x, row)[:, :: -1 if is_mirrored else 1]
            for x, is_mirrored in zip(all_logits, mirrored, strict=True)
        ]
        expected = sum(jax.nn.softmax(x) for x in resized).argmax(-1)
        part = found[row, :height, :width]
        np.testing.assert_array_equal(part, expected)
        num_other += int((sum(resized).argmax(-1) != part).sum())
    # The mean of logits has other classes.
    assert num_other > 5


def test_images_are_mirrored_within_their_part():
    x = np.arange(2 * 3 * 6 * 2).reshape(2, 3, 6, 2).astype(np.float32)
    sizes = np.array([[3, 6], [2, 4]])
    found = jax.jit(mirror_inside)(x, sizes)
    np.testing.assert_array_equal(found[0], x[0, :, ::-1])
    np.testing.assert_array_equal(found[1, :, :4], x[1, :, 3::-1])
    np.testing.assert_array_equal(found[1, :, 4:], x[1, :, 4:])
