import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from litv2_jax.data.transforms.segmentation import (
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
