"""From encoded images and annotations to pixels and their classes.

A record has `image` and `annotation`, the bytes of two files of the same size. The
transforms are those of mmsegmentation 0.13: resized whole, and only then cropped.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from litv2_jax.data.decode import (
    explain_errors,
    load,
    open_image,
    orientation,
    to_rgb,
    turn_upright,
    upright_size,
)
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.photometric import distort, draw_distortion
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError

# What 0 is in the annotations: no class, in which case class k of the model is k + 1
# there, or a class itself.
_ZERO_LABELS = ("ignored", "class")

# One number for each pixel, which is its class; in a palette, not its color.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

# What Pillow multiplies grey of 2 or 4 bits by, to get levels from 0 to 255.
_SPREAD = {"L;2": 85, "L;4": 17}

_SUBJECT = "its annotation"


class SegmentationTrainTransform(grain.transforms.RandomMap):
    """Random size, crop, flip and colours: a record to `image`, `label`, `size`."""

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        *,
        scale: tuple[int, int] = (2048, 512),
        ratio: tuple[float, float] = (0.5, 2.0),
        max_share: float = 0.75,
        flip: float = 0.5,
        distortion: float = 1.0,
        zero_label: str,
        num_classes: int = geometry.IGNORED,
    ):
        """Creates the transform.

        Args:
            crop_size: Side of the result in pixels, or its height S and width T.
            scale: What the longer and the shorter side of an image may have, in pixels.
            ratio: Least and largest factor of both.
            max_share: What no class may reach of a crop, which is redrawn ten times for
                it; 1 takes the first one.
            flip: Probability of mirroring left and right.
            distortion: Probability of changing the colours at all.
            zero_label: What 0 is in the annotations, `ignored` or `class`.
            num_classes: As in `decode_pair`.
        """
        self._crop_size = geometry.both_sides(crop_size)
        self._scale = scale
        self._ratio = ratio
        self._max_share = max_share
        self._flip = flip
        self._distortion = distortion
        self._zero_label = zero_label
        self._num_classes = num_classes

    def random_map(
        self, element: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Returns the pixels, which begin in the upper left corner.

        Shapes: `image` uint8 [S, T, 3], 0 outside; `label` uint8 [S, T], 255 where it
        is ignored and outside; `size` int32 [2], height and width of what is inside.
        """
        image, label = decode_pair(element, self._zero_label, self._num_classes)
        factor = rng.uniform(*self._ratio)
        long_side, short_side = (int(side * factor) for side in self._scale)
        size = geometry.keep_ratio_size(label.shape, long_side, short_side)
        label = geometry.resize_label(label, size)
        box = geometry.random_crop_box(label, self._crop_size, rng, self._max_share)
        label = geometry.crop(label, box)
        image = geometry.crop(geometry.resize_image(image, size), box)
        if rng.random() < self._flip:
            image, label = geometry.flip(image), geometry.flip(label)
        if rng.random() < self._distortion:
            image = distort(image, draw_distortion(rng))
        return {
            "image": geometry.pad(image, self._crop_size, 0),
            "label": geometry.pad(label, self._crop_size, geometry.IGNORED),
            "size": np.array(label.shape, np.int32),
        }


def name_view(name: str, ratio: float) -> str:
    """Returns what `image` or `size` is called at a factor on the scale."""
    return name if ratio == 1 else f"{name}_{ratio:g}"


class SegmentationEvalTransform(grain.transforms.Map):
    """The whole image resized and its annotation as it is: `image` and `label`.

    Attributes:
        ratios: Factors on the scale, of each of which there is an image.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        zero_label: str,
        num_classes: int = geometry.IGNORED,
        *,
        ratios: Sequence[float] = (1.0,),
    ):
        """Creates the transform.

        Args:
            scale: What the longer and the shorter side of an image may have, in pixels.
            zero_label: What 0 is in the annotations, `ignored` or `class`.
            num_classes: As in `decode_pair`.
            ratios: Factors on the scale, one of which is 1.
        """
        self._scale = scale
        self._zero_label = zero_label
        self._num_classes = num_classes
        self.ratios = tuple(ratios)

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Returns both, without padding.

        Shapes: `image` uint8 [H, W, 3], resized, and of other ratios `image_0.5` and so
        on; `label` uint8 at its own size, 255 where it is ignored.
        """
        image, label = decode_pair(element, self._zero_label, self._num_classes)
        images = {
            name_view("image", ratio): geometry.resize_image(
                image, self.image_size(label.shape, ratio)
            )
            for ratio in self.ratios
        }
        return {**images, "label": label}

    def image_size(self, size: tuple[int, ...], ratio: float = 1.0) -> tuple[int, int]:
        """Returns what height and width of an image become at a factor on the scale."""
        height, width = size
        long_side, short_side = (int(side * ratio) for side in self._scale)
        return geometry.keep_ratio_size((height, width), long_side, short_side)


def decode_pair(
    element: dict[str, Any], zero_label: str, num_classes: int = geometry.IGNORED
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes `image` and `annotation` to uint8 [H, W, 3] and [H, W].

    As in mmsegmentation, the image is turned upright by its EXIF orientation, and the
    annotation, which has none, is taken as it is stored. One that has the orientation
    of its image is turned as well.

    Args:
        element: A record.
        zero_label: What 0 is in its annotation: a `class`, or `ignored`, in which case
            it becomes 255 and the others are one less.
        num_classes: How many classes there are. By default, every label but 255 is one.

    Raises:
        ValueError: If `zero_label` is anything else.
        UnreadableImageError: If either cannot be decoded, their sizes or orientations
            differ, or a label is neither a class nor the one that is ignored.
    """
    if zero_label not in _ZERO_LABELS:
        raise ValueError(
            f"zero_label is {zero_label!r}; use {' or '.join(_ZERO_LABELS)}."
        )
    image, turn = _decode_image(element["image"])
    label = _decode_annotation(element["annotation"], turn)
    if image.shape[:2] != label.shape:
        raise UnreadableImageError(_describe_sizes(image, label, turn))
    first = int(zero_label == "ignored")
    label = _check_values(label, num_classes - 1 + first)
    return image, geometry.reduce_zero_label(label) if first else label


def check_num_classes(num_classes: int, zero_label: str) -> None:
    """Raises ConfigError if labels of 8 bits cannot tell so many classes apart."""
    most = geometry.IGNORED - (zero_label == "ignored")
    if num_classes > most:
        raise ConfigError(
            f"The data set has {num_classes} classes, but the label of a pixel has 8 "
            f"bits and {geometry.IGNORED} is ignored: with zero_label={zero_label} "
            f"there can be {most}."
        )


def decode_annotation(data: bytes) -> np.ndarray:
    """Decodes the numbers of pixels, integers [H, W]; colors of a palette are not read.

    Raises:
        UnreadableImageError: If it is no whole image, has not one number for each
            pixel, or is a JPEG file, which does not keep them.
    """
    return _decode_annotation(data, 1)


def read_size(data: bytes) -> tuple[int, int]:
    """Returns height and width of an annotation, of which only these are read.

    Raises:
        UnreadableImageError: If it does not begin as an image does.
    """
    return upright_size(open_image(data, _SUBJECT))


def _decode_image(data: bytes) -> tuple[np.ndarray, int]:
    """Returns an image turned upright, uint8 [H, W, 3], and its EXIF orientation."""
    image = load(data)
    turn = orientation(image)
    with explain_errors():
        return np.asarray(turn_upright(to_rgb(image))), turn


def _decode_annotation(data: bytes, image_orientation: int) -> np.ndarray:
    """Decodes an annotation, integers [H, W], whose image has this EXIF orientation."""
    image = open_image(data, _SUBJECT)
    spread = _SPREAD.get(str(image.tile[0].args), 1) if image.tile else 1
    if image.format in ("JPEG", "MPO"):
        raise UnreadableImageError(
            f"{_SUBJECT} is a JPEG file, which does not keep the number of each pixel: "
            "save it as PNG, from its source"
        )
    if image.mode not in _MODES:
        raise UnreadableImageError(
            f"{_SUBJECT} has the mode {image.mode} of Pillow, not one channel of 1, 8 "
            "or 16 bits with the class of each pixel"
        )
    with explain_errors(_SUBJECT):
        image.load()
    turn = orientation(image)
    if turn not in (1, image_orientation):
        raise UnreadableImageError(
            f"{_SUBJECT} has the EXIF orientation {turn}, but the image "
            f"{image_orientation}: remove that of the annotation, or give both the same"
        )
    with explain_errors(_SUBJECT):
        numbers = np.asarray(turn_upright(image))
        if numbers.dtype == bool:
            return numbers.astype(np.uint8)
        return numbers // spread if spread > 1 else numbers


def _describe_sizes(image: np.ndarray, label: np.ndarray, turn: int) -> str:
    """Returns a sentence on an image and an annotation of different sizes."""
    (height, width), (label_height, label_width) = image.shape[:2], label.shape
    size = f"{width}x{height} pixels"
    if turn != 1:
        size += f", turned as its EXIF orientation {turn} says"
    sentence = f"the image has {size}, but its annotation {label_width}x{label_height}"
    if image.shape[:2] == label.shape[::-1]:
        is_turned = (
            "was drawn on the image as it is stored" if turn != 1 else "is turned"
        )
        sentence += (
            f"; perhaps it {is_turned}: images are turned upright by EXIF, annotations "
            "have to be upright"
        )
    return sentence


def _check_values(label: np.ndarray, last: int) -> np.ndarray:
    """Returns labels as uint8.

    Args:
        label: Integers [H, W], as they are in the file.
        last: Number of the last class there.

    Raises:
        UnreadableImageError: If one is neither a class nor the one that is ignored.
    """
    if label.max() > last or label.min() < 0:
        wrong = label[((label > last) & (label != geometry.IGNORED)) | (label < 0)]
        if wrong.size:
            raise UnreadableImageError(
                f"{_SUBJECT} has pixels of {wrong.max()}, but the last class is "
                f"{last}, and only {geometry.IGNORED} is ignored"
            )
    return label.astype(np.uint8, copy=False)
