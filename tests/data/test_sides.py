"""Training and evaluation with images that are not square."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from litv2_jax.data.transforms.geometry import both_sides, random_crop_box
from litv2_jax.data.transforms.imagenet import (
    EvalTransform,
    TrainTransform,
    center_crop,
)
from litv2_jax.data.transforms.segmentation import SegmentationTrainTransform
from tests.data.annotated import encode, make_pair

PHOTO = Image.fromarray(load_sample_image("flower.jpg"))  # 640 wide, 427 high.
BICUBIC = Image.Resampling.BICUBIC


def test_one_number_is_both_sides():
    assert both_sides(5) == (5, 5)
    # As JSON has it.
    assert both_sides([5, 6]) == (5, 6)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        # 32 / 0.5 = 64 high is enough for 96 wide; 100 wide needs 66 pixels of height.
        ((32, 48), (96, 64)),
        ((32, 50), (100, 66)),
        ((50, 32), (149, 100)),
        ((32, 32), (95, 64)),
    ],
)
def test_the_middle_is_kept_of_what_covers_both_sides(size, resized):
    whole = np.asarray(PHOTO.resize(resized, BICUBIC))
    height, width = size
    y, x = round((resized[1] - height) / 2), round((resized[0] - width) / 2)
    expected = whole[y : y + height, x : x + width]
    np.testing.assert_array_equal(np.asarray(center_crop(PHOTO, size, 0.5)), expected)


def test_training_images_have_both_sides():
    record = {"image": encode(np.asarray(PHOTO)), "label": 0}
    whole = {"scale": (1.0, 1.0), "ratio": (640 / 427, 640 / 427), "flip": 0.0}
    pixels = TrainTransform((32, 48), **whole).random_map(
        record, np.random.default_rng(0)
    )["image"]
    expected = np.asarray(PHOTO.resize((48, 32), BICUBIC))
    assert np.abs(pixels.astype(int) - expected).mean() < 2
    squeezed = EvalTransform((32, 48), 1.0).map(record)["image"]
    np.testing.assert_array_equal(squeezed, expected)


def test_crops_of_labels_have_both_sides():
    batch = SegmentationTrainTransform(
        (40, 64), scale=(256, 128), zero_label="class"
    ).random_map(make_pair(60, 90, seed=0), np.random.default_rng(0))
    assert batch["image"].shape == (40, 64, 3)
    assert batch["label"].shape == (40, 64)
    label = np.zeros((100, 50), np.uint8)
    box = random_crop_box(label, (40, 64), np.random.default_rng(0), 1.0)
    assert (box[3] - box[1], box[2] - box[0]) == (40, 50)
