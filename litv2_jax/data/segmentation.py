"""From encoded images and annotations to pixels and their classes.

A record has `image` and `annotation`, the bytes of two files of the same size. The
transforms are those of mmsegmentation 0.13: resized whole, and only then cropped.
"""

import io
from typing import Any

import grain
import numpy as np
from PIL import Image, UnidentifiedImageError

from litv2_jax.data import geometry
from litv2_jax.data.imagenet import decode
from litv2_jax.data.photometric import distort, draw_distortion
from litv2_jax.data.unreadable import UnreadableImageError

# What 0 is in the annotations: no class, in which case class k of the model is k + 1
# there, or a class itself.
_ZERO_LABELS = ("ignored", "class")

# Of one channel with up to 8 bits, whose values are the classes.
_MODES = ("L", "P", "1")


class SegmentationTrainTransform(grain.transforms.RandomMap):
    """Random size, crop, flip and colours: a record to `image`, `label`, `size`."""

    def __init__(
        self,
        crop_size: int,
        *,
        scale: tuple[int, int] = (2048, 512),
        ratio: tuple[float, float] = (0.5, 2.0),
        max_share: float = 0.75,
        flip: float = 0.5,
        distortion: float = 1.0,
        zero_label: str,
    ):
        """Creates the transform.

        Args:
            crop_size: Side S of the result in pixels.
            scale: What the longer and the shorter side of an image may have, in pixels.
            ratio: Least and largest factor of both.
            max_share: What no class may reach of a crop, which is redrawn ten times for
                it; 1 takes the first one.
            flip: Probability of mirroring left and right.
            distortion: Probability of changing the colours at all.
            zero_label: What 0 is in the annotations, `ignored` or `class`.
        """
        self._crop_size = crop_size
        self._scale = scale
        self._ratio = ratio
        self._max_share = max_share
        self._flip = flip
        self._distortion = distortion
        self._zero_label = zero_label

    def random_map(
        self, element: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Returns the pixels, which begin in the upper left corner.

        Shapes: `image` uint8 [S, S, 3], 0 outside; `label` uint8 [S, S], 255 where it
        is ignored and outside; `size` int32 [2], height and width of what is inside.
        """
        image, label = decode_pair(element, self._zero_label)
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
        canvas = (self._crop_size, self._crop_size)
        return {
            "image": geometry.pad(image, canvas, 0),
            "label": geometry.pad(label, canvas, geometry.IGNORED),
            "size": np.array(label.shape, np.int32),
        }


class SegmentationEvalTransform(grain.transforms.Map):
    """The whole image resized and its annotation as it is: `image` and `label`."""

    def __init__(self, scale: tuple[int, int], zero_label: str):
        """Creates the transform.

        Args:
            scale: What the longer and the shorter side of an image may have, in pixels.
            zero_label: What 0 is in the annotations, `ignored` or `class`.
        """
        self._scale = scale
        self._zero_label = zero_label

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Returns both, without padding.

        Shapes: `image` uint8 [H, W, 3], resized; `label` uint8 at its own size, 255
        where it is ignored.
        """
        image, label = decode_pair(element, self._zero_label)
        size = self.image_size(label.shape)
        return {"image": geometry.resize_image(image, size), "label": label}

    def image_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Returns what height and width of an image become."""
        height, width = size
        return geometry.keep_ratio_size((height, width), *self._scale)


def decode_pair(
    element: dict[str, Any], zero_label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes `image` and `annotation` to uint8 [H, W, 3] and [H, W].

    Args:
        element: A record.
        zero_label: What 0 is in its annotation: a `class`, or `ignored`, in which case
            it becomes 255 and the others are one less.

    Raises:
        ValueError: If `zero_label` is anything else.
        UnreadableImageError: If either cannot be decoded, or their sizes differ.
    """
    if zero_label not in _ZERO_LABELS:
        raise ValueError(
            f"zero_label is {zero_label!r}; use {' or '.join(_ZERO_LABELS)}."
        )
    image = np.asarray(decode(element["image"]))
    label = decode_annotation(element["annotation"])
    if image.shape[:2] != label.shape:
        raise UnreadableImageError(
            f"the image has {image.shape[1]}x{image.shape[0]} pixels, but its "
            f"annotation {label.shape[1]}x{label.shape[0]}"
        )
    if zero_label == "ignored":
        label = geometry.reduce_zero_label(label)
    return image, label


def decode_annotation(data: bytes) -> np.ndarray:
    """Decodes the classes of pixels, uint8 [H, W]; colours of a palette are not read.

    Raises:
        UnreadableImageError: If it is no whole image, or has not one number for each
            pixel.
    """
    image = _open(data)
    if image.mode not in _MODES:
        raise UnreadableImageError(
            f"its annotation has the mode {image.mode} of Pillow, not one channel of 8 "
            "bits with the class of each pixel"
        )
    try:
        return np.asarray(image).astype(np.uint8, copy=False)
    # Pillow decodes only now; the bytes of a broken file fail there in many ways.
    except Exception as error:
        raise _unreadable(error) from error


def read_size(data: bytes) -> tuple[int, int]:
    """Returns height and width of an encoded image, of which only these are read.

    Raises:
        UnreadableImageError: If it does not begin as an image does.
    """
    width, height = _open(data).size
    return height, width


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise UnreadableImageError(
            "its annotation is no image of a format that is known"
        ) from None
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UnreadableImageError:
    return UnreadableImageError(f"its annotation: {type(error).__name__}: {error}")
