import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.data.detection_records import Annotation, create_record, unpack_crop
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.detection import (
    DetectionEvalTransform,
    DetectionTrainTransform,
)
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.ops.mask_bits import unpack_masks
from tests.data.detected import encode, make_record
from tests.reference import GOLDEN

STORED = np.load(GOLDEN / "dense" / "pipeline.npz")
PIXELS = np.ascontiguousarray(STORED["image_bgr"][..., ::-1])


def transform(record, *, scale, canvas, flip=0.0, max_objects=8, num_bytes=0):
    made = DetectionTrainTransform(
        scale, flip, max_objects=max_objects, num_bytes=num_bytes
    )
    return made.random_map({**record, "canvas": canvas}, np.random.default_rng(0))


def stored_record():
    boxes = STORED["boxes"].astype(np.float64)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    annotations = [Annotation(box, k, 50.0) for k, box in enumerate(boxes)]
    return create_record(encode(PIXELS), "a.png", PIXELS.shape[:2], annotations)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_images_and_boxes_are_those_of_mmdetection(flip):
    scale = tuple(STORED["resize_up/scale_long_short"].tolist())
    arrays = transform(stored_record(), scale=scale, canvas=(96, 160), flip=flip)
    height, width = arrays["size"]
    image = STORED["resize_up/img"][..., ::-1]
    expected = STORED["boxes_resized_flipped" if flip else "boxes_resized"]
    assert (height, width) == image.shape[:2]
    inside = arrays["image"][:height, :width]
    np.testing.assert_array_equal(inside, image[:, ::-1] if flip else image)
    assert not arrays["image"][height:].any()
    assert not arrays["image"][:, width:].any()
    count = arrays["is_object"].sum()
    assert count == len(expected)
    np.testing.assert_array_equal(arrays["boxes"][:count], expected)
    assert not arrays["boxes"][count:].any()
    assert arrays["label"].tolist() == [*range(count), *[0] * (8 - count)]
    assert "mask_bits" not in arrays


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_masks_follow_their_image(flip):
    """Unpacked and read by the maps, they are those resized and mirrored."""
    record = make_record(37, 53, 4, num_objects=3)
    record["is_crowd"][1] = True  # It is left out.
    options = {"scale": (120, 80), "canvas": (96, 128), "flip": flip}
    arrays = transform(record, num_bytes=500, **options)
    height, width = arrays["size"]
    assert arrays["is_object"].sum() == 2
    bits, places = (jnp.asarray(arrays[f"mask_{n}"]) for n in ("bits", "places"))
    masks = np.asarray(unpack_masks(bits, places[:2], (37, 53)))
    for mask, number in zip(masks, (0, 2), strict=True):
        crop, top, left = unpack_crop(record, number)
        expected = np.zeros((37, 53), np.uint8)
        expected[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        np.testing.assert_array_equal(mask, expected)
        resized = geometry.resize_label(expected, (height, width))
        resized = geometry.flip(resized) if flip else resized
        rows, columns = arrays["row_map"][:height], arrays["column_map"][:width]
        np.testing.assert_array_equal(mask[np.ix_(rows, columns)], resized)
    assert arrays["row_map"].shape == (96,)
    assert arrays["column_map"].shape == (128,)
    assert not arrays["mask_places"][2:].any()


def test_what_is_too_small_or_a_group_is_left_out():
    boxes = [(0, 0, 9, 9), (3, 3, 0.5, 9), (3, 3, 9, 0.9), (60, 3, 9, 9)]
    annotations = [Annotation(box, 1, 50.0) for box in boxes]
    annotations += [Annotation((1, 1, 5, 5), 2, 9.0, is_crowd=True)]
    annotations += [Annotation((1, 1, 5, 5), 2, 0.0), Annotation((50, 30, 9, 9), 2, 81)]
    record = create_record(encode(PIXELS), "a.png", (37, 53), annotations)
    arrays = transform(record, scale=(53, 37), canvas=(64, 64))
    assert arrays["label"][arrays["is_object"]].tolist() == [1, 2]
    # What leaves the image is cut.
    assert arrays["boxes"][1].tolist() == [50, 30, 53, 37]


def test_nothing_stands_in_for_no_record():
    made = DetectionTrainTransform((80, 60), 0.5, max_objects=3, num_bytes=40)
    empty = made.random_map({"canvas": (64, 96)}, np.random.default_rng(0))
    full = transform(
        make_record(30, 40, 0),
        scale=(80, 60),
        canvas=(64, 96),
        max_objects=3,
        num_bytes=400,
    )
    assert {k: v.dtype for k, v in empty.items()} == {
        k: v.dtype for k, v in full.items()
    }
    del full["mask_bits"]
    assert all(empty[name].shape == full[name].shape for name in full)
    assert not empty["is_object"].any()


def test_an_image_that_is_not_the_annotated_one_is_unreadable():
    record = make_record(30, 40, 0, image=encode(PIXELS))
    with pytest.raises(UnreadableImageError, match="53x37 pixels, .* are for 40x30"):
        DetectionEvalTransform((80, 60)).map(record)
