import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from litv2_jax.data import geometry, photometric, segmentation
from litv2_jax.data.segmentation import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    check_num_classes,
    decode_annotation,
    decode_pair,
    read_size,
)
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from tests.data.annotated import encode, make_pair

PAIR = make_pair(60, 90, seed=0)


def train(pair=PAIR, seed=0, crop_size=48, **options):
    options = {"scale": (128, 64), "zero_label": "class"} | options
    transform = SegmentationTrainTransform(crop_size, **options)
    return transform.random_map(pair, np.random.default_rng(seed))


def paint(label):
    """Returns a record whose image says by its colours what the annotation is."""
    colors = np.stack([label * 40, 255 - label * 40, label * 20], axis=2)
    return {"image": encode(colors), "annotation": encode(label)}


def test_a_training_image_has_its_label_beneath_it():
    label = np.zeros((60, 90), np.uint8)
    label[20:, 30:] = 3
    label[40:, :70] = 5
    pair = paint(label)
    sizes, sides = set(), set()
    for seed in range(40):
        batch = train(pair, seed, distortion=0.0, max_share=1.0)
        image, label = batch["image"], batch["label"]
        assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
        assert (label.shape, label.dtype) == ((48, 48), np.uint8)
        assert (batch["size"].shape, batch["size"].dtype) == ((2,), np.int32)
        height, width = batch["size"]
        sizes.add((int(height), int(width)))
        assert (label[height:] == 255).all()
        assert (label[:, width:] == 255).all()
        assert not image[height:].any()
        assert not image[:, width:].any()
        # But at the edges between classes, where the image is interpolated.
        inside = label[:height, :width].astype(int)
        wrong = abs(image[:height, :width, 0].astype(int) - inside * 40) > 2
        assert wrong.mean() < 0.2
        sides.add(bool(inside[:, 0].sum() > inside[:, -1].sum()))
    # Of some the shorter side is too short, of some both are long enough.
    assert {(48, 48)} < sizes
    assert sides == {False, True}


def test_the_ratio_scales_both_bounds():
    # 60 x 90 in (2 * 64, 2 * 128) is 128 x 192, in (32, 64) it is 32 x 48.
    assert train(ratio=(2.0, 2.0), crop_size=200)["size"].tolist() == [128, 192]
    assert train(ratio=(0.5, 0.5), crop_size=200)["size"].tolist() == [32, 48]
    # The longer side decides for a long image.
    long = make_pair(20, 100, seed=1)
    assert train(long, ratio=(1.0, 1.0), crop_size=200)["size"].tolist() == [26, 128]
    # Bounds are whole numbers: 1.4 * 64 is 89.
    assert train(ratio=(1.4, 1.4), crop_size=200)["size"].tolist() == [89, 134]
    heights = {train(seed=s, crop_size=200)["size"][0] for s in range(200)}
    assert min(heights) in (32, 33)
    assert max(heights) in (127, 128)


def test_crops_avoid_what_one_class_fills():
    label = np.zeros((64, 128), np.uint8)
    label[:, 100:] = 1
    shares = {}
    for max_share in (0.75, 1.0):
        options = {"ratio": (1.0, 1.0), "max_share": max_share, "crop_size": 40}
        found = [train(paint(label), seed, **options)["label"] for seed in range(50)]
        shares[max_share] = np.mean([(label == 0).mean() < 0.75 for label in found])
    assert shares[1.0] < 0.4
    assert shares[0.75] > 0.8


def test_flipping_and_distorting_have_their_probabilities(monkeypatch):
    flips = []
    monkeypatch.setattr(geometry, "flip", lambda x: flips.append(1) or x[:, ::-1])
    distorted = []
    monkeypatch.setattr(
        segmentation, "distort", lambda x, draws: distorted.append(draws) or x
    )
    for seed in range(400):
        train(seed=seed, flip=0.25, distortion=0.75)
    # Of the image and of the label.
    assert 140 < len(flips) < 260
    assert 260 < len(distorted) < 340
    assert all(isinstance(draws, photometric.Distortion) for draws in distorted)
    assert len(set(distorted)) > 200
    distorted.clear()
    for seed in range(50):
        train(seed=seed, distortion=0.0)
    assert not distorted


def test_colours_are_distorted_inside_only():
    changed = 0
    for seed in range(20):
        # What is drawn before the colours is the same.
        plain, distorted = (train(seed=seed, distortion=d) for d in (0.0, 1.0))
        np.testing.assert_array_equal(plain["label"], distorted["label"])
        height, width = plain["size"]
        assert not distorted["image"][height:].any()
        assert not distorted["image"][:, width:].any()
        changed += (plain["image"] != distorted["image"]).any()
    assert changed > 10


def test_zero_is_a_class_or_none():
    label = np.asarray(Image.open(io.BytesIO(PAIR["annotation"])))
    np.testing.assert_array_equal(decode_pair(PAIR, "class")[1], label)
    expected = np.where(label == 0, 255, label - 1)
    np.testing.assert_array_equal(decode_pair(PAIR, "ignored")[1], expected)
    # Pixels that are no class have no share of a crop, either.
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 4
    found = train(paint(half), zero_label="ignored", ratio=(1.0, 1.0))["label"]
    assert set(np.unique(found)) <= {3, 255}


def test_evaluation_resizes_the_image_and_keeps_the_label():
    transform = SegmentationEvalTransform((128, 64), "ignored")
    arrays = transform.map(PAIR)
    image, label = decode_pair(PAIR, "ignored")
    expected = geometry.resize_image(image, (64, 96))
    np.testing.assert_array_equal(arrays["image"], expected)
    np.testing.assert_array_equal(arrays["label"], label)
    assert transform.image_size((60, 90)) == (64, 96)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_classes_are_the_numbers_of_the_file_not_its_colours(mode):
    label = (np.arange(35) % (2 if mode == "1" else 7)).reshape(5, 7).astype(np.uint8)
    image = Image.fromarray(label).convert("1" if mode == "1" else "L")
    if mode == "P":
        image.putpalette(list(np.random.default_rng(0).integers(256, size=768)))
    if mode == "1":
        image = Image.fromarray(label.astype(bool))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert Image.open(file).mode == mode
    found = decode_annotation(file.getvalue())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


def test_sizes_are_read_from_the_beginning_of_a_file():
    assert read_size(PAIR["annotation"][:60]) == (60, 90)
    with pytest.raises(UnreadableImageError, match="annotation is no image"):
        read_size(b"no image")


NUMBERS = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)


def save(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        save(Image.fromarray(NUMBERS.astype(np.uint16))),
        save(Image.fromarray(NUMBERS.astype(np.uint16)), "TIFF"),
        save(Image.fromarray(NUMBERS.astype(np.int32)), "TIFF"),
        save(Image.fromarray(NUMBERS), "BMP"),
    ],
    ids=["PNG of 16 bits", "TIFF of 16 bits", "TIFF of 32 bits", "BMP"],
)
def test_one_number_for_each_pixel_is_read_from_any_format_that_keeps_it(data):
    np.testing.assert_array_equal(decode_annotation(data), NUMBERS)
    pair = {"image": encode(np.zeros((2, 3, 3), np.uint8)), "annotation": data}
    label = decode_pair(pair, "class", 5)[1]
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, NUMBERS)


def few_bits(depth: int, row: int) -> bytes:
    """Returns a grey PNG of 8 bits in one row, in pixels of so many of them."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", 8 // depth, 1, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes([0, row])))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0, 0, 0, 1, 1, 0, 1, 1]), (2, [0, 1, 2, 3]), (4, [1, 11])],
)
def test_numbers_of_few_bits_are_not_levels_of_grey(depth, expected):
    """Pillow makes 0 to 255 of them."""
    assert decode_annotation(few_bits(depth, 0b00011011)).tolist() == [expected]


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "CMYK", "F"])
def test_what_has_not_one_number_for_each_pixel_is_refused(mode):
    data = save(Image.fromarray(NUMBERS).convert(mode), "TIFF")
    with pytest.raises(UnreadableImageError, match=f"has the mode {mode} of Pillow"):
        decode_annotation(data)


def test_a_jpeg_file_is_no_annotation_whatever_it_is_called():
    data = save(Image.fromarray(np.zeros((60, 90), np.uint8)), "JPEG")
    with pytest.raises(UnreadableImageError, match="is a JPEG file.*save it as PNG"):
        decode_pair(PAIR | {"annotation": data}, "class")


@pytest.mark.parametrize(
    ("value", "zero_label", "last"),
    [(2, "class", 1), (254, "class", 1), (256, "class", 1), (65535, "class", 1)]
    + [(3, "ignored", 2), (65535, "ignored", 2), (65280, "ignored", 2)],
)
def test_a_label_that_is_neither_a_class_nor_ignored_is_unusable(
    value, zero_label, last
):
    label = np.zeros((60, 90), np.uint16)
    label[:5], label[5:9], label[50, 70] = 1, 255, value
    pair = PAIR | {"annotation": save(Image.fromarray(label))}
    message = f"pixels of {value}, but the last class is {last}, and only 255 is ign"
    train = SegmentationTrainTransform(48, zero_label=zero_label, num_classes=2)
    evaluate = SegmentationEvalTransform((128, 64), zero_label, num_classes=2)
    for read in (
        lambda: train.random_map(pair, np.random.default_rng(0)),
        lambda: evaluate.map(pair),
        lambda: decode_pair(pair, zero_label, 2),
    ):
        with pytest.raises(UnreadableImageError, match=message):
            read()
    label[50, 70] = last
    pair = PAIR | {"annotation": save(Image.fromarray(label))}
    found = decode_pair(pair, zero_label, 2)[1]
    assert sorted(np.unique(found)) == [0, 1, 255] if last == 2 else [0, 1, 255]


def test_more_classes_than_labels_can_tell_apart_are_refused():
    check_num_classes(255, "class")
    check_num_classes(254, "ignored")
    for count, zero_label, most in ((256, "class", 255), (255, "ignored", 254)):
        message = f"has {count} classes.*zero_label={zero_label} there can be {most}"
        with pytest.raises(ConfigError, match=message):
            check_num_classes(count, zero_label)


def oriented(pixels, orientation: int, kind="PNG") -> bytes:
    """Stores pixels so that this EXIF orientation turns them upright again."""
    back = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(np.rot90(pixels, back)), kind, exif=exif)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_upright_onto_their_annotations(orientation):
    """As by OpenCV, with which mmsegmentation reads images, but not annotations."""
    label = np.zeros((40, 60), np.uint8)
    label[:10, :20] = 1
    image = np.repeat(label[..., None] * 200, 3, axis=2)
    pair = {"image": oriented(image, orientation), "annotation": encode(label)}
    found, numbers = decode_pair(pair, "class", 2)
    np.testing.assert_array_equal(numbers, label)
    np.testing.assert_array_equal(found, image)
    opencv = cv2.imdecode(np.frombuffer(pair["image"], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(found, opencv)
    assert read_size(pair["annotation"]) == (40, 60)
    # An annotation with the same orientation was stored in the same way.
    pair["annotation"] = oriented(label, orientation)
    np.testing.assert_array_equal(decode_pair(pair, "class", 2)[1], label)
    assert read_size(pair["annotation"]) == (40, 60)


def test_an_annotation_with_another_orientation_than_its_image_is_unusable():
    label = np.zeros((40, 60), np.uint8)
    image = np.zeros((40, 60, 3), np.uint8)
    pair = {"image": encode(image), "annotation": oriented(label, 3)}
    message = "its annotation has the EXIF orientation 3, but the image 1: remove"
    with pytest.raises(UnreadableImageError, match=message):
        decode_pair(pair, "class")


def test_sizes_that_differ_by_a_turn_are_explained_by_exif():
    label, image = np.zeros((40, 60), np.uint8), np.zeros((60, 40, 3), np.uint8)
    # Drawn on the image as it is stored.
    pair = {"image": oriented(image, 6), "annotation": encode(label)}
    message = "40x60 pixels, turned as its EXIF orientation 6 says, but its annotation "
    with pytest.raises(UnreadableImageError, match=f"{message}60x40; perhaps it was"):
        decode_pair(pair, "class")
    pair = {"image": encode(image), "annotation": encode(label)}
    with pytest.raises(UnreadableImageError, match="it is turned: .*upright by EXIF"):
        decode_pair(pair, "class")


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 40000)])
def test_images_of_extreme_shapes_take_no_more_memory_than_others(size):
    pair = {
        "image": encode(np.zeros((*size, 3), np.uint8)),
        "annotation": encode(np.zeros(size, np.uint8)),
    }
    assert train(pair)["image"].shape == (48, 48, 3)
    evaluate = SegmentationEvalTransform((128, 64), "class")
    assert max(evaluate.map(pair)["image"].shape) <= 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotation": encode(np.zeros((60, 80), np.uint8))}, "90x60 .* 80x60"),
        ({"annotation": encode(np.zeros((60, 90, 3), np.uint8))}, "the mode RGB of"),
        ({"annotation": PAIR["annotation"][:-60]}, "its annotation: .*Error"),
        ({"annotation": b""}, "its annotation is no image of a"),
        ({"image": PAIR["image"][:900]}, "OSError: "),
    ],
)
def test_pairs_that_cannot_be_used_say_why(change, message):
    with pytest.raises(UnreadableImageError, match=message):
        decode_pair(PAIR | change, "class")
