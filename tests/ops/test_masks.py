import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.mask_bits import map_pixels
from litv2_jax.ops.masks import create_mask_targets, paste_mask, resample_mask
from tests.ops.test_roi_align import align_slowly
from tests.reference import Reference

GOLDEN = Reference("dense/mask_parts")


@jax.jit
def create_targets(masks, boxes, image_size, row_map, column_map):
    return create_mask_targets(
        masks,
        boxes,
        image_size=image_size,
        row_map=row_map,
        column_map=column_map,
    )


def unpack_bits(packed, shape):
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape)


def test_targets_are_the_originals():
    shape = GOLDEN["mask_target/gt_masks_shape"]
    masks = unpack_bits(GOLDEN["mask_target/gt_masks_packed"], shape)
    boxes = jnp.asarray(GOLDEN["mask_target/proposals"])
    maps = [jnp.arange(n) for n in shape[1:]]
    targets = create_targets(masks, boxes, shape[1:], *maps)
    assert GOLDEN.difference("mask_target/targets", targets) == 0


def draw_ellipses(boxes, size):
    """Of the golden values: inscribed in each box, at the centers of pixels."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    low, high = np.float64(boxes[:, :2]), np.float64(boxes[:, 2:])
    center, radius = ((low + high) / 2)[..., None, None], (high - low)[..., None, None]
    x = (x[None] - center[:, 0]) / (radius[:, 0] / 2)
    y = (y[None] - center[:, 1]) / (radius[:, 1] / 2)
    return (x**2 + y**2) <= 1


def test_targets_of_sampled_proposals_are_the_originals():
    golden, key = Reference("dense/mask_tiny_ws2"), "loss_eval_mode"
    size = golden["meta/hw_imghw_b_ws"][2:4]
    maps = [jnp.arange(n) for n in size]
    targets = []
    for image in range(2):
        masks = draw_ellipses(golden[f"gt.{image}/bboxes"], size)
        np.testing.assert_array_equal(
            masks.sum((1, 2)), golden[f"gt.{image}/mask_areas"]
        )
        sampled = f"{key}/roi_sampled.{image}"
        masks = masks[golden[f"{sampled}/pos_assigned_gt"]].astype(np.uint8)
        boxes = golden[f"{sampled}/pos_boxes"]
        targets.append(create_targets(masks, boxes, size, *maps))
    shape = golden[f"{key}/mask_targets_shape"]
    expected = unpack_bits(golden[f"{key}/mask_targets_packed"], shape)
    np.testing.assert_array_equal(np.concatenate(targets), expected)


def make_masks(count, size, seed=0):
    """Blobs of several parts."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, *size)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(x, (0, 0), 4) > 0.03 for x in noise])


@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("new_size", [(37, 59), (61, 83), (150, 111)])
def test_masks_of_the_file_give_the_targets_of_resized_ones(new_size, is_flipped):
    size = (61, 83)
    masks = make_masks(6, size)
    resized = [
        cv2.resize(x.astype(np.uint8), new_size[::-1], interpolation=cv2.INTER_NEAREST)
        for x in masks
    ]
    resized = [x[:, ::-1] if is_flipped else x for x in resized]
    rng = np.random.default_rng(1)
    low = rng.uniform(-5, 25, (6, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 140, (6, 2))]).astype(np.float32)

    canvas = (160, 128)
    row_map = map_pixels(size[0], new_size[0], length=canvas[0])
    column_map = map_pixels(
        size[1], new_size[1], length=canvas[1], is_flipped=is_flipped
    )
    padded = np.pad(masks.astype(np.uint8), ((0, 0), (0, 9), (0, 5)))
    targets = create_targets(padded, boxes, np.array(new_size), row_map, column_map)
    for target, mask, box in zip(targets, resized, boxes, strict=True):
        clipped = np.clip(box, 0, np.tile(new_size[::-1], 2))
        values = align_slowly(mask[..., None].astype(float), clipped, 1, 28)[..., 0]
        is_clear = np.abs(values - 0.5) > 1e-6
        np.testing.assert_array_equal(target[is_clear], values[is_clear] >= 0.5)


def test_no_boxes_and_boxes_without_extent_have_empty_targets():
    maps, size = [jnp.arange(20), jnp.arange(30)], np.array([20, 30])
    nothing = create_targets(np.ones((0, 20, 30)), np.zeros((0, 4)), size, *maps)
    assert nothing.shape == (0, 28, 28)
    boxes = np.float32([[0, 0, 0, 0], [5, 5, 5, 15], [40, 40, 50, 50]])
    targets = create_targets(np.ones((3, 20, 30)), boxes, size, *maps)
    np.testing.assert_array_equal(targets, 0)


@pytest.mark.parametrize("map_", [jax.vmap, lambda f: functools.partial(_loop, f)])
def test_images_have_targets_as_alone(map_):
    masks = make_masks(6, (30, 40)).reshape(2, 3, 30, 40).astype(np.uint8)
    boxes = np.float32(np.tile([[2, 3, 30, 20], [5, 5, 38, 25], [0, 0, 9, 9]], (2, 1)))
    boxes = boxes.reshape(2, 3, 4)
    sizes = np.array([[30, 40], [20, 30]])
    maps = [
        np.stack([map_pixels(m, n, length=length) for n in new])
        for m, new, length in ((30, sizes[:, 0], 30), (40, sizes[:, 1], 40))
    ]
    mapped = map_(create_targets)(masks, boxes, sizes, *maps)
    for i in range(2):
        alone = create_targets(masks[i], boxes[i], sizes[i], *(x[i] for x in maps))
        np.testing.assert_array_equal(mapped[i], alone)


def _loop(function, *arrays):
    return jax.lax.map(lambda arrays: function(*arrays), arrays)


def test_pasted_masks_are_the_originals():
    size = tuple(GOLDEN["paste/hw"].tolist())
    probabilities, boxes = GOLDEN["paste/prob28"][:, 0], GOLDEN["paste/boxes"]
    masks = np.stack(
        [paste_mask(p, box, size) for p, box in zip(probabilities, boxes, strict=True)]
    )
    expected = unpack_bits(GOLDEN["paste/mask_packed_ge_0.5"], masks.shape)
    # Box 0 has no width: a stripe across the image in the original.
    assert expected[0].any()
    assert not masks[0].any()
    np.testing.assert_array_equal(masks[1:], expected[1:])
    np.testing.assert_array_equal(masks[1:].sum((1, 2)), GOLDEN["paste/areas"][1:])


def test_pasted_probabilities_are_the_originals():
    size = tuple(GOLDEN["paste/hw"].tolist())
    for i in range(1, 8):
        pasted = np.zeros(size, np.float32)
        top, left, values = resample_mask(
            GOLDEN["paste/prob28"][i, 0], GOLDEN["paste/boxes"][i], size
        )
        pasted[top : top + values.shape[0], left : left + values.shape[1]] = values
        expected = GOLDEN["paste/prob_full_float16"][i]
        np.testing.assert_array_equal(pasted.astype(np.float16), expected)


@pytest.mark.parametrize(
    "box",
    [[0, 0, 0, 9], [5, 5, 5, 5], [9, 9, 2, 2], [99, 10, 110, 20], [-9, 0, -3, 5]],
)
def test_boxes_without_extent_or_beyond_the_image_give_empty_masks(box):
    full = np.ones((28, 28), np.float32)
    assert not resample_mask(full, np.array(box), (60, 80))[2].size
    mask = paste_mask(full, np.array(box), (60, 80))
    assert mask.shape == (60, 80)
    assert not mask.any()


def test_a_full_mask_fills_its_box_and_no_more():
    mask = paste_mask(
        np.ones((28, 28), np.float32), np.array([10, 20, 38, 55]), (60, 80)
    )
    expected = np.zeros((60, 80), bool)
    expected[20:55, 10:38] = True
    np.testing.assert_array_equal(mask, expected)
