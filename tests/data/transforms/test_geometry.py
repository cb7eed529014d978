import json
from pathlib import Path

import numpy as np
import pytest

from litv2_jax.data.transforms import geometry

GOLDEN = Path(__file__).parents[2] / "golden" / "dense"
SIZES = json.loads((GOLDEN / "pipeline.json").read_text())["resize_keep_ratio"]


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "pipeline.npz"))


def rgb(image):
    """The golden images are in BGR."""
    return np.ascontiguousarray(image[..., ::-1])


@pytest.mark.parametrize("scale", SIZES)
def test_sizes_keep_their_ratio_as_in_mmcv(scale):
    long, short = (int(side) for side in scale.split("x"))
    for height, width, new_height, new_width in SIZES[scale]:
        found = geometry.keep_ratio_size((height, width), long, short)
        assert found == (new_height, new_width)


def test_no_side_vanishes():
    assert geometry.keep_ratio_size((1, 9000), 2048, 512) == (1, 2048)


@pytest.mark.parametrize("case", ["resize_up", "resize_down", "resize_x2"])
def test_resizing_is_that_of_opencv(golden, case):
    image, label = rgb(golden["image_bgr"]), golden["label"]
    long, short = golden[f"{case}/scale_long_short"].tolist()
    size = geometry.keep_ratio_size(image.shape[:2], long, short)
    expected = rgb(golden[f"{case}/img"])
    assert size == expected.shape[:2]
    np.testing.assert_array_equal(geometry.resize_image(image, size), expected)
    np.testing.assert_array_equal(
        geometry.resize_label(label, size), golden[f"{case}/seg_nearest"]
    )


def test_flipping_mirrors_left_and_right(golden):
    flipped = geometry.flip(rgb(golden["image_bgr"]))
    np.testing.assert_array_equal(flipped, rgb(golden["flip_img"]))
    np.testing.assert_array_equal(
        geometry.flip(golden["label"]), golden["label"][:, ::-1]
    )


def test_labels_are_padded_with_what_is_ignored(golden):
    padded = geometry.pad(golden["label"], (64, 64), geometry.IGNORED)
    np.testing.assert_array_equal(padded, golden["pad/seg"])
    image = geometry.pad(rgb(golden["image_bgr"]), (64, 60), 0)
    np.testing.assert_array_equal(image[:37, :53], rgb(golden["image_bgr"]))
    assert image.shape == (64, 60, 3)
    assert not image[37:].any()
    assert not image[:, 53:].any()


def test_boxes_follow_their_image(golden):
    boxes = golden["boxes"]
    before = boxes.copy()
    size = golden["image_bgr"].shape[:2]
    new_size = golden["resize_up/img"].shape[:2]
    resized = geometry.resize_boxes(boxes, size, new_size)
    np.testing.assert_array_equal(resized, golden["boxes_resized"])
    assert resized.dtype == np.float32
    flipped = geometry.flip_boxes(resized, new_size[1])
    np.testing.assert_array_equal(flipped, golden["boxes_resized_flipped"])
    np.testing.assert_array_equal(boxes, before)
    outside = np.array([[-3, 5, 60, 39]], np.float32)
    clipped = geometry.resize_boxes(outside, size, new_size)
    np.testing.assert_allclose(clipped, [[0, 5 * 90 / 37, 129, 90]], rtol=1e-6)


def test_a_crop_is_redrawn_until_no_class_fills_it(golden):
    label = golden["crop/seg"]
    boxes = [
        (x_min, y_min, x_max, y_max)
        for y_min, y_max, x_min, x_max in golden["crop/draws_y1y2x1x2"].tolist()
    ]
    # In all eleven a class has half of the pixels or more, in two exactly half.
    chosen = geometry.choose_crop(label, boxes, 0.5)
    np.testing.assert_array_equal(
        geometry.crop(label, chosen), golden["crop/taken_seg"]
    )
    assert geometry.choose_crop(label, boxes, 0.51) == boxes[1]
    assert geometry.choose_crop(label, boxes[2:], 0.6) == boxes[4]
    assert geometry.choose_crop(label, boxes[2:], 1.0) == boxes[2]


@pytest.mark.parametrize(
    ("classes", "is_taken"),
    [
        ([7] * 16, False),
        ([7] * 12 + [2] * 4, False),
        ([7] * 11 + [2] * 5, True),
        ([7] * 8 + [255] * 8, False),
        ([7] * 3 + [2] * 1 + [255] * 12, False),
        ([7] * 2 + [2] * 2 + [255] * 12, True),
        ([255] * 16, False),
    ],
)
def test_pixels_that_are_ignored_have_no_share(classes, is_taken):
    label = np.zeros((4, 9), np.uint8)
    label[:, :4] = np.reshape(classes, (4, 4))
    first, last = (0, 0, 4, 4), (4, 0, 8, 4)
    chosen = geometry.choose_crop(label, [first, last], 0.75)
    assert chosen == (first if is_taken else last)


def test_crops_are_drawn_from_everywhere_and_ten_times_again():
    rng = np.random.default_rng(0)
    label = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7)
    boxes = {geometry.random_crop_box(label, 5, rng, 0.75) for _ in range(200)}
    assert boxes == {(x, y, x + 5, y + 5) for x in range(3) for y in range(2)}
    assert geometry.random_crop_box(label, 9, rng, 0.75) == (0, 0, 7, 6)
    assert geometry.random_crop_box(label[:3], 5, rng, 0.75)[3] == 3

    class Count:
        draws = 0

        def integers(self, high):
            self.draws += 1
            return 0

    count = Count()
    geometry.random_crop_box(np.zeros((6, 7), np.uint8), 5, count, 0.75)  # type: ignore
    assert count.draws == 2 * 11


def test_zero_may_be_no_class(golden):
    before = golden["label"].copy()
    reduced = geometry.reduce_zero_label(golden["label"])
    np.testing.assert_array_equal(reduced, golden["label_reduced"])
    np.testing.assert_array_equal(golden["label"], before)
    values = np.array([[0, 1, 150, 254, 255]], np.uint8)
    assert geometry.reduce_zero_label(values).tolist() == [[255, 0, 149, 253, 255]]
