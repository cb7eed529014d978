import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.boxes import (
    clip_boxes,
    compute_areas,
    compute_iou,
    decode_boxes,
    encode_boxes,
    have_extent,
)
from tests.reference import Reference

GOLDEN = Reference("dense/det_parts")
STDS = {"std1": (1.0, 1.0, 1.0, 1.0), "std.1.2": (0.1, 0.1, 0.2, 0.2)}


def make_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 50, (count, 2))])
    return boxes.astype(np.float32)


@pytest.mark.parametrize("case", STDS)
def test_coding_is_the_originals(case):
    rois, truth, deltas = (
        jnp.asarray(GOLDEN[f"coder/{name}"]) for name in ("rois", "gts", "deltas")
    )
    key = f"coder/{case}"
    encoded = encode_boxes(truth, rois, stds=STDS[case])
    assert GOLDEN.difference(f"{key}/encode", encoded) < 1e-5
    decoded = decode_boxes(deltas, rois, stds=STDS[case])
    # Of boxes up to 2,950 pixels long.
    assert GOLDEN.difference(f"{key}/decode", decoded) < 1e-3
    size = jnp.array([90, 120])
    clipped = decode_boxes(deltas, rois, stds=STDS[case], image_size=size)
    assert GOLDEN.difference(f"{key}/decode_max_shape_h90_w120", clipped) < 5e-5


def test_decoding_inverts_encoding_for_each_class():
    references = jnp.asarray(make_boxes(6))[:, None]
    boxes = jnp.asarray(make_boxes(18, seed=1)).reshape(6, 3, 4)
    deltas = encode_boxes(boxes, references, stds=STDS["std.1.2"])
    decoded = decode_boxes(deltas, references, stds=STDS["std.1.2"])
    assert decoded.shape == (6, 3, 4)
    np.testing.assert_allclose(decoded, boxes, atol=1e-4)


def test_a_box_grows_and_shrinks_by_the_largest_ratio_at_most():
    reference = jnp.array([[10.0, 10, 20, 30]])
    deltas = jnp.array([[0.0, 0, 50, -50]])
    x_min, y_min, x_max, y_max = decode_boxes(deltas, reference, max_ratio=8)[0]
    np.testing.assert_allclose([x_max - x_min, y_max - y_min], [80, 2.5], rtol=1e-5)


def test_boxes_without_extent_encode_to_finite_deltas():
    boxes = jnp.array([[0.0, 0, 0, 0], [5, 5, 5, 9], [1, 2, 3, 4]])
    for a, b in ((boxes, boxes[::-1]), (boxes, boxes)):
        assert np.isfinite(encode_boxes(a, b)).all()
    np.testing.assert_array_equal(have_extent(boxes), [False, False, True])


def test_overlaps_of_known_boxes():
    a = jnp.array([[0.0, 0, 10, 10], [0, 0, 0, 0], [20, 20, 20, 30]])
    b = jnp.array([[5.0, 0, 15, 10], [0, 0, 10, 10], [0, 0, 0, 0], [30, 30, 40, 40]])
    iou = compute_iou(a, b)
    np.testing.assert_allclose(iou[0], [1 / 3, 1, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(iou[1:], 0)
    np.testing.assert_array_equal(compute_areas(a), [100, 0, 0])


def test_overlaps_are_symmetric_and_at_most_one():
    a, b = jnp.asarray(make_boxes(30)), jnp.asarray(make_boxes(20, seed=1))
    np.testing.assert_array_equal(compute_iou(a, b), compute_iou(b, a).T)
    iou = compute_iou(a, a)
    np.testing.assert_array_equal(jnp.diag(iou), 1)
    assert float(iou.max()) <= 1


def test_each_image_clips_to_its_own_size():
    boxes = jnp.asarray(make_boxes(12)).reshape(2, 6, 4)
    sizes = jnp.array([[30, 60], [60, 30]])
    clipped = jax.vmap(clip_boxes)(boxes, sizes)
    for box, size, result in zip(boxes, sizes, clipped, strict=True):
        bounds = np.array([*size[::-1], *size[::-1]])
        np.testing.assert_array_equal(result, np.clip(box, 0, bounds[None]))


@pytest.mark.parametrize("function", [compute_areas, have_extent])
def test_no_boxes_have_no_areas(function):
    assert function(jnp.zeros((0, 4))).shape == (0,)


def test_no_boxes_have_no_deltas_and_overlaps():
    none, some = jnp.zeros((0, 4)), jnp.asarray(make_boxes(3))
    assert encode_boxes(none, none).shape == (0, 4)
    assert decode_boxes(none, none, image_size=jnp.array([5, 5])).shape == (0, 4)
    assert compute_iou(none, some).shape == (0, 3)
    assert compute_iou(some, none).shape == (3, 0)


def test_bfloat16_boxes_are_computed_with_in_float32():
    boxes = jnp.asarray(make_boxes(4), jnp.bfloat16)
    for result in (compute_areas(boxes), encode_boxes(boxes, boxes[::-1])):
        assert result.dtype == jnp.float32
    expected = encode_boxes(boxes.astype(jnp.float32), boxes[::-1].astype(jnp.float32))
    np.testing.assert_array_equal(encode_boxes(boxes, boxes[::-1]), expected)
