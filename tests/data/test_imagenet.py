import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from litv2_jax.data.imagenet import (
    EvalTransform,
    TrainTransform,
    center_crop,
    decode,
    random_box,
)

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def picture(width=50, height=40) -> Image.Image:
    rows, cols = np.mgrid[:height, :width]
    pixels = np.stack([rows * 5 % 256, cols * 4 % 256, (rows + cols) % 256], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    seed=st.integers(0, 2**32 - 1),
)
def test_boxes_lie_inside_the_image(width, height, seed):
    box = random_box((width, height), SCALE, RATIO, np.random.default_rng(seed))
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


def test_boxes_are_distributed_as_defined():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((500, 375), SCALE, RATIO, rng) for _ in range(8000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / (500 * 375), w / h

    # Area and log-ratio are uniform, given that the box fits: here its height decides.
    areas = np.linspace(*SCALE, 1001)[:, None]
    log_ratios = np.linspace(*np.log(RATIO), 1001)[None]
    fits = areas <= 0.75 * np.exp(log_ratios)
    expected_area = (areas * fits).sum() / fits.sum()
    expected_ratio = (log_ratios * fits).sum() / fits.sum()

    assert abs(area.mean() - expected_area) < 0.008
    assert abs(np.log(ratio).mean() - expected_ratio) < 0.006
    assert 0.078 < area.min() < 0.09
    assert area.max() > 0.95
    assert 0.74 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.35
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() / 2 - 250) < 4
    assert abs((boxes[:, 1] + boxes[:, 3]).mean() / 2 - 187.5) < 3


def test_very_long_images_are_cropped_to_the_middle():
    box = random_box((1000, 10), (0.9, 1.0), RATIO, np.random.default_rng(0))
    assert box == (493, 0, 506, 10)


def test_training_images_are_cropped_and_mirrored():
    record = {"image": encode(picture()), "label": 3}
    whole = {"scale": (1.0, 1.0), "ratio": (1.25, 1.25)}
    rng = np.random.default_rng(0)

    plain = TrainTransform(24, **whole, flip=0.0).random_map(record, rng)
    mirrored = TrainTransform(24, **whole, flip=1.0).random_map(record, rng)

    assert plain["label"] == 3
    assert plain["image"].dtype == np.uint8
    expected = np.asarray(picture().resize((24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(plain["image"], expected)
    np.testing.assert_array_equal(mirrored["image"], expected[:, ::-1])


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (32, 32), (200, 40)])
def test_evaluation_keeps_the_middle(size):
    image = picture(*size)
    record = {"image": encode(image), "label": 0}
    pixels = EvalTransform(28, 0.875).map(record)["image"]
    # torchvision: Resize(32), then CenterCrop(28).
    scale = 32 / min(size)
    resized = image.resize(
        tuple(int(side * 32 / min(size)) for side in size), Image.Resampling.BICUBIC
    )
    left, top = (round((side - 28) / 2) for side in resized.size)
    expected = np.asarray(resized)[top : top + 28, left : left + 28]
    assert scale <= 1
    np.testing.assert_array_equal(pixels, expected)


def test_crop_of_one_squeezes_the_whole_image():
    expected = picture().resize((20, 20), Image.Resampling.BICUBIC)
    actual = center_crop(picture(), 20, 1.0)
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_all_kinds_of_images_become_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    decoded = decode(encode(image, kind))
    assert decoded.mode == "RGB"
    assert decoded.size == (50, 40)
