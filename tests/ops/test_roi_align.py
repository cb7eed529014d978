import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.roi_align import choose_levels, roi_align
from tests.reference import Reference

GOLDEN = Reference("dense/mask_parts")
STRIDES = (4, 8, 16)


@functools.partial(
    jax.jit, static_argnames=("bins", "strides", "sampling_ratio", "max_cells")
)
def crop(maps, boxes, sizes=None, *, bins, strides=STRIDES, **options):
    return roi_align(maps, boxes, bins, strides=strides, sizes=sizes, **options)


def make_maps(size, channels=2, seed=0):
    """A map for each stride of an image of `size`."""
    rng = np.random.default_rng(seed)
    shapes = [(size[0] // stride, size[1] // stride, channels) for stride in STRIDES]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def align_slowly(feature, box, stride, bins, ratio=0):
    """The definition, one sample at a time: [bins, bins, C]."""
    begin = np.float64(box[1::-1]) / stride - 0.5
    step = (np.float64(box[:1:-1]) / stride - 0.5 - begin) / bins
    count = [ratio or int(np.ceil(x)) for x in step]
    height, width, channels = feature.shape
    result = np.zeros((bins, bins, channels))
    for p, q, i, j in np.ndindex(bins, bins, *count):
        y = begin[0] + (p + (i + 0.5) / count[0]) * step[0]
        x = begin[1] + (q + (j + 0.5) / count[1]) * step[1]
        if not (-1 <= y <= height and -1 <= x <= width):
            continue
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        low, left = int(y), int(x)
        high, right = min(low + 1, height - 1), min(left + 1, width - 1)
        upper = (1 - x + left) * feature[low, left] + (x - left) * feature[low, right]
        lower = (1 - x + left) * feature[high, left] + (x - left) * feature[high, right]
        result[p, q] += (1 - y + low) * upper + (y - low) * lower
    return result / max(np.prod(count), 1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "bins", "ratio"),
    [
        ("out7", 7, 0),
        ("out14", 14, 0),
        ("out7_sampling_ratio2", 7, 2),
        ("out7_not_aligned", 7, 0),
    ],
)
def test_crops_are_the_originals(name, bins, ratio):
    maps = jnp.asarray(GOLDEN["roi_align/feat"].transpose(0, 2, 3, 1))
    rois = GOLDEN["roi_align/rois_stride8"]
    image, boxes = rois[:, 0].astype(int), rois[:, 1:]
    if name == "out7_not_aligned":
        # Half a cell further, and at least one cell long.
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 8)
        boxes = np.hstack([boxes[:, :2], boxes[:, :2] + sides]) + 4
    cropped = jax.vmap(
        lambda x: crop([x], boxes, bins=bins, strides=(8,), sampling_ratio=ratio)
    )(maps)
    cropped = cropped[image, np.arange(len(rois))].transpose(0, 3, 1, 2)
    assert GOLDEN.difference(f"roi_align/{name}", cropped) < 1e-5


def test_levels_are_the_originals():
    sides = GOLDEN["roi_levels/side_of_square"]
    boxes = jnp.asarray(np.stack([0 * sides, 0 * sides, sides, sides], 1))
    levels = choose_levels(boxes, 4)
    assert GOLDEN.difference("roi_levels/level", levels) == 0


@pytest.mark.parametrize("image", [0, 1])
def test_levels_of_proposals_are_the_originals(image):
    golden = Reference("dense/mask_tiny_ws2")
    rois, levels = golden["roi/rois"], golden["roi/levels"]
    mine = rois[:, 0] == image
    found = choose_levels(jnp.asarray(rois[mine, 1:]), 4)
    np.testing.assert_array_equal(found, levels[mine])


def make_boxes(size, count, seed):
    """From a tenth of a pixel to the image and beyond, at whole cells, too."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(0.1), np.log(1.2 * max(size)), (count, 2)))
    low = rng.uniform(-20, 1, (count, 2)) + rng.random((count, 2)) * size[::-1]
    boxes = np.hstack([low, low + sides])
    boxes[::4] = np.round(boxes[::4] / 16) * 16
    boxes[0], boxes[1] = 0, [-9, 5, size[1], size[0] + 30]
    boxes[2] = [-9, 40, size[1] / 2, 40 + size[0] / 2]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("ratio", [0, 3])
@pytest.mark.parametrize("bins", [3, 7])
def test_crops_are_means_of_samples_of_the_right_level(bins, ratio):
    size = (192, 320)
    maps, boxes = make_maps(size), make_boxes(size, 40, bins)
    cropped = crop(maps, boxes, bins=bins, sampling_ratio=ratio)
    levels = choose_levels(jnp.asarray(boxes), 3)
    assert set(levels.tolist()) == {0, 1, 2}
    for i, level in enumerate(levels.tolist()):
        args = maps[level], boxes[i], STRIDES[level], bins, ratio
        np.testing.assert_allclose(cropped[i], align_slowly(*args), atol=2e-5)


def test_a_box_that_needs_too_many_cells_is_cropped_from_a_coarser_level():
    maps = make_maps((192, 320))
    # 72 by 12 cells of the finest level, 36 by 6 of the next.
    boxes = np.float32([[10, 20, 298, 68]])
    assert choose_levels(jnp.asarray(boxes), 3).tolist() == [1]
    boxes = np.float32([[10, 20, 298, 58]])
    assert choose_levels(jnp.asarray(boxes), 3).tolist() == [0]
    for max_cells, level in ((1280, 0), (300, 1)):
        cropped = crop(maps, boxes, bins=7, max_cells=max_cells)
        expected = align_slowly(maps[level], boxes[0], STRIDES[level], 7)
        np.testing.assert_allclose(cropped[0], expected, atol=2e-5)


def test_every_box_of_an_image_of_800_by_1344_pixels_has_its_cells():
    # Constant maps: what is left out would be missing from the mean.
    shapes = [(200, 336, 1), (100, 168, 1), (50, 84, 1), (25, 42, 1)]
    maps = [np.full(shape, 1 + i, np.float32) for i, shape in enumerate(shapes)]
    width = np.geomspace(20, 1300, 24, dtype=np.float32)
    x, y = np.float32(20.3), np.float32(9.7)
    boxes = []
    for area in (110**2, 222**2, 440**2, 700**2):
        height = area / width
        mine = np.stack([0 * width + x, 0 * width + y, x + width, y + height], 1)
        boxes.append(mine[(height > 20) & (height < 780)])
    boxes = np.concatenate(boxes)
    cropped = crop(maps, boxes, bins=7, strides=(4, 8, 16, 32))
    levels = choose_levels(jnp.asarray(boxes), 4)
    expected = np.broadcast_to(1 + levels[:, None, None, None], cropped.shape)
    np.testing.assert_allclose(cropped, expected, rtol=1e-5)


@pytest.mark.parametrize("more", [9, 40])
def test_an_image_in_a_larger_canvas_is_cropped_as_alone(more):
    """The last box needs more cells than alone; the larger canvas would have them."""
    size = (96, 160)
    maps, boxes = make_maps(size), make_boxes(size, 30, 0)
    boxes = np.concatenate([boxes, np.float32([[2, 10, 158, 22]])])
    canvas = [np.pad(x, ((0, more), (0, 5), (0, 0)), constant_values=9) for x in maps]
    sizes = jnp.array([x.shape[:2] for x in maps])
    options = {"bins": 7, "max_cells": 100}
    alone = crop(maps, boxes, **options)
    np.testing.assert_allclose(crop(canvas, boxes, sizes, **options), alone, atol=1e-5)


def test_no_boxes_and_boxes_without_extent_give_nothing_and_zeros():
    maps = make_maps((96, 160))
    assert crop(maps, np.zeros((0, 4), np.float32), bins=7).shape == (0, 7, 7, 2)
    boxes = np.float32([[0, 0, 0, 0], [50, 40, 50, 40], [50, 40, 20, 10]])
    np.testing.assert_array_equal(crop(maps, boxes, bins=7), 0)


@pytest.mark.gpu
def test_gradients_are_the_transposed_crop():
    maps, boxes = make_maps((96, 160)), make_boxes((96, 160), 12, 3)

    def total(maps, boxes, cotangent):
        return jnp.sum(roi_align(maps, boxes, 3, strides=STRIDES) * cotangent)

    rng = np.random.default_rng(0)
    cotangent = rng.standard_normal((12, 3, 3, 2)).astype(np.float32)
    grads, box_grads = jax.jit(jax.grad(total, (0, 1)))(maps, boxes, cotangent)
    # Linear: the product with any other maps is that of their crops.
    others = make_maps((96, 160), seed=1)
    product = sum(np.vdot(g, x) for g, x in zip(grads, others, strict=True))
    expected = np.vdot(crop(others, boxes, bins=3), cotangent)
    np.testing.assert_allclose(product, expected, rtol=1e-4)
    np.testing.assert_array_equal(box_grads, 0)


def test_bfloat16_gradients_are_summed_in_float32():
    # 300 boxes read the same cell: in bfloat16 the sum would stop at 256.
    maps = [jnp.ones((8, 8, 1), jnp.bfloat16)]
    boxes = jnp.tile(jnp.array([[4.0, 4, 8, 8]]), (300, 1))

    def total(maps):
        return roi_align(maps, boxes, 1, strides=(4,)).astype(jnp.float32).sum()

    (grad,) = jax.jit(jax.grad(total))(maps)
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(grad[1, 1, 0]), 300, rtol=2**-8)


def test_images_are_cropped_as_alone():
    batch = [make_maps((96, 160), seed=seed) for seed in range(3)]
    boxes = [make_boxes((96, 160), 5, seed) for seed in range(3)]
    stacked = [np.stack(level) for level in zip(*batch, strict=True)]
    mapped = jax.vmap(functools.partial(crop, bins=7))(stacked, np.stack(boxes))
    for i in range(3):
        alone = crop(batch[i], boxes[i], bins=7)
        np.testing.assert_allclose(mapped[i], alone, atol=1e-6)
