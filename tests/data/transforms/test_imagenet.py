import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from litv2_jax.data.transforms.imagenet import (
    EvalTransform,
    TrainTransform,
    center_crop,
    decode,
    random_box,
)
from litv2_jax.data.unreadable import UnreadableImageError

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


@pytest.mark.parametrize(
    "size", [(50, 40), (40, 50), (32, 32), (200, 40), (40, 1280), (640, 20)]
)
def test_evaluation_keeps_the_middle(size):
    image = picture(*size)
    record = {"image": encode(image), "label": 0}
    pixels = EvalTransform(28, 0.875).map(record)["image"]
    # torchvision: Resize(32), then CenterCrop(28).
    resized = image.resize(
        tuple(int(side * 32 / min(size)) for side in size), Image.Resampling.BICUBIC
    )
    left, top = (round((side - 28) / 2) for side in resized.size)
    expected = np.asarray(resized)[top : top + 28, left : left + 28]
    np.testing.assert_array_equal(pixels, expected)


def test_crop_of_one_squeezes_the_whole_image():
    expected = picture().resize((20, 20), Image.Resampling.BICUBIC)
    actual = center_crop(picture(), 20, 1.0)
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "YCbCr", "1"])
def test_all_kinds_of_images_become_rgb_as_pillow_does_it(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encode(picture().convert(mode), kind)
    decoded = decode(data)
    assert decoded.mode == "RGB"
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))
    if mode in ("RGBA", "LA", "P", "CMYK"):
        distance = np.asarray(decoded).astype(int) - np.asarray(picture())
        assert np.abs(distance).mean() < 65


def test_transparency_is_ignored():
    image = picture().convert("P")
    plain = decode(encode(image))
    clear = decode(encode(image, transparency=bytes(range(256))))
    np.testing.assert_array_equal(np.asarray(clear), np.asarray(plain))
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.zeros((40, 50), np.uint8)))
    np.testing.assert_array_equal(np.asarray(decode(encode(image))), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_become_eight(kind):
    levels = np.linspace(0, 65535, 2000).reshape(40, 50).astype(np.uint16)
    image = Image.fromarray(levels)
    data = encode(image.convert("I") if kind == "PPM" else image, kind)
    assert Image.open(io.BytesIO(data)).mode in ("I;16", "I")
    decoded = np.asarray(decode(data))
    assert decoded.shape == (40, 50, 3)
    np.testing.assert_allclose(decoded[..., 0], levels / 257, atol=1)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_images_are_not_turned_by_what_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held sideways.
    data = encode(picture(), "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    np.testing.assert_array_equal(
        np.asarray(decode(data)), np.asarray(decode(encode(picture(), "JPEG")))
    )


def huge_png() -> bytes:
    """The header of an image of 20,000 by 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + chunk + encode(picture())[33:]


BROKEN = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "JPEG cut short": encode(picture(200, 150), "JPEG")[:-100],
    "JPEG header alone": encode(picture(200, 150), "JPEG")[:300],
    "PNG cut short": encode(picture(200, 150))[:-100],
    "GIF cut short": encode(picture(200, 150).convert("P"), "GIF")[:-100],
    "PPM of nonsense": b"P6 abc",
    "too many pixels": huge_png(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_unreadable(name):
    record = {"image": BROKEN[name], "label": 0}
    train = TrainTransform(24, scale=SCALE, ratio=RATIO, flip=0.5)
    with pytest.raises(UnreadableImageError) as found:
        decode(BROKEN[name])
    assert "0x" not in str(found.value)
    assert not isinstance(found.value.__cause__, UnreadableImageError)
    with pytest.raises(UnreadableImageError):
        train.random_map(record, np.random.default_rng(0))
    with pytest.raises(UnreadableImageError):
        EvalTransform(24, 0.875).map(record)


def test_bytes_at_random_are_unreadable_or_an_image():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP"):
        data = encode(picture(), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(min(len(data), 200), size=4):
                damaged[place] = rng.integers(256)
            with contextlib.suppress(UnreadableImageError):
                assert decode(bytes(damaged)).mode == "RGB"


def test_the_way_a_box_is_drawn_is_that_of_the_paper():
    """Areas uniform, ratios log-uniform, places uniform, where every draw fits."""
    rng = np.random.default_rng(1)
    boxes = np.array(
        [random_box((4000, 4000), (0.08, 0.5), RATIO, rng) for _ in range(4000)]
    )
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert_uniform(w * h / 4000**2, 0.08, 0.5)
    assert_uniform(np.log(w / h), *np.log(RATIO))
    assert_uniform(boxes[:, 0] / (4000 - w), 0, 1)
    assert_uniform(boxes[:, 1] / (4000 - h), 0, 1)


def assert_uniform(values, low, high):
    """Kolmogorov and Smirnov's test; one in a thousand seeds fails it."""
    values = np.sort((values - low) / (high - low))
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - values).max(), (values - steps[:-1]).max())
    assert distance < 1.95 / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # 13 = round(10 * 4 / 3) wide.
        ((10, 1000), (0, 493, 10, 506)),  # 13 = round(10 / (3 / 4)) high.
        ((20, 22), (0, 0, 20, 22)),  # A ratio within bounds: all of it.
    ],
)
def test_after_ten_draws_that_do_not_fit_the_middle_is_taken(size, box):
    class NeverFits:
        """The largest area and ratio, ten times."""

        draws = 0

        def uniform(self, low, high):
            self.draws += 1
            return high

    rng = NeverFits()
    # Twice the area of the image does not fit at any ratio.
    assert random_box(size, (2.0, 2.0), RATIO, rng) == box
    assert rng.draws == 20


def test_training_images_are_what_pillow_makes_of_the_same_draws():
    data = encode(Image.fromarray(load_sample_image("flower.jpg")), "JPEG")
    transform = TrainTransform(56, scale=SCALE, ratio=RATIO, flip=0.5)
    mirrored = 0
    for seed in range(12):
        image = transform.random_map(
            {"image": data, "label": 7}, np.random.default_rng(seed)
        )["image"]
        rng = np.random.default_rng(seed)
        box = random_box((640, 427), SCALE, RATIO, rng)
        with Image.open(io.BytesIO(data)) as photo:
            expected = np.asarray(
                photo.crop(box).resize((56, 56), Image.Resampling.BICUBIC)
            )
        if rng.random() < 0.5:
            expected = expected[:, ::-1]
            mirrored += 1
        np.testing.assert_array_equal(image, expected)
    assert 0 < mirrored < 12


def test_half_of_the_training_images_are_mirrored():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    record = {"image": encode(Image.fromarray(pixels)), "label": 0}
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    transform = TrainTransform(8, **whole, flip=0.3)
    rng = np.random.default_rng(0)
    count = sum(
        transform.random_map(record, rng)["image"][0, 0, 0] == 0 for _ in range(1000)
    )
    assert abs(count - 300) < 4 * np.sqrt(1000 * 0.3 * 0.7)
