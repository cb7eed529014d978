"""Images whose sides have an extreme ratio take no more memory than others."""

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from litv2_jax.data.transforms import imagenet
from litv2_jax.data.transforms.imagenet import (
    EvalTransform,
    TrainTransform,
    center_crop,
)
from litv2_jax.data.transforms.segmentation import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
)
from tests.data.annotated import encode


@pytest.mark.parametrize("size", [(700, 20), (20, 700), (1000, 30), (30, 1000)])
def test_long_images_are_cropped_before_they_are_resized_to_the_same(size, monkeypatch):
    """But for rounding, in Pillow's order of rows and columns."""
    image = Image.fromarray(load_sample_image("china.jpg")).resize(size)
    cropped = np.asarray(center_crop(image, 28, 0.875)).astype(int)
    monkeypatch.setattr(imagenet, "_MAX_RATIO", 10**6)
    whole = np.asarray(center_crop(image, 28, 0.875))
    assert np.abs(cropped - whole).max() <= 8
    assert np.abs(cropped - whole).mean() < 0.5


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (60000, 1), (1, 1)])
def test_a_line_of_pixels_takes_no_gigabyte(size):
    pixels = np.zeros((*size[::-1], 3), np.uint8)
    record = {"image": encode(pixels), "label": 0}
    train = TrainTransform(56, scale=(0.08, 1.0), ratio=(0.1, 0.2), flip=0.5)

    def read():
        assert EvalTransform(56, 0.875).map(record)["image"].shape == (56, 56, 3)
        pixels = train.random_map(record, np.random.default_rng(0))["image"]
        assert pixels.shape == (56, 56, 3)

    read()
    # What Pillow allocates is not Python's.
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        read()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 40000)])
def test_images_of_extreme_shapes_take_no_more_memory_than_others(size):
    pair = {
        "image": encode(np.zeros((*size, 3), np.uint8)),
        "annotation": encode(np.zeros(size, np.uint8)),
    }
    transform = SegmentationTrainTransform(48, scale=(128, 64), zero_label="class")
    batch = transform.random_map(pair, np.random.default_rng(0))
    assert batch["image"].shape == (48, 48, 3)
    evaluate = SegmentationEvalTransform((128, 64), "class")
    assert max(evaluate.map(pair)["image"].shape) <= 128
