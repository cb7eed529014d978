"""From encoded images to the pixels that ImageNet classifiers see.

The transforms are those of torchvision and timm: bicubic with antialiasing, on uint8.
"""

import math
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from litv2_jax.data.decode import check_exif, decode
from litv2_jax.data.transforms.geometry import both_sides
from litv2_jax.data.transforms.randaugment import RandAugment

BICUBIC = Image.Resampling.BICUBIC

# An image that resizing would make more than this many times as large as its crop is
# cropped first: a line of pixels would take a gigabyte.
_MAX_RATIO = 32


class TrainTransform(grain.transforms.RandomMap):
    """Random crop, flip and operations: a record to uint8 [S, T, 3] and a label."""

    def __init__(
        self,
        image_size: int | tuple[int, int],
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        flip: float,
        exif: str = "ignored",
        rand_augment: RandAugment | None = None,
    ):
        """Creates the transform.

        Args:
            image_size: Side of the result in pixels, or its height S and width T.
            scale: Least and largest fraction of the image's area to crop.
            ratio: Least and largest ratio of width to height of the crop.
            flip: Probability of mirroring left and right.
            exif: What to make of an EXIF orientation, as in `decode`.
            rand_augment: What follows; None for nothing.
        """
        check_exif(exif, "exif")
        self._height, self._width = both_sides(image_size)
        self._scale = scale
        self._ratio = ratio
        self._flip = flip
        self._exif = exif
        self._rand_augment = rand_augment

    def random_map(
        self, element: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Returns `image` and `label`."""
        image = decode(element["image"], self._exif)
        box = random_box(image.size, self._scale, self._ratio, rng)
        # Cropped before it is resized, so that nothing outside the box leaks in.
        image = image.crop(box).resize((self._width, self._height), BICUBIC)
        if rng.random() < self._flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._rand_augment is not None:
            image = self._rand_augment(image, rng)
        return {"image": np.asarray(image), "label": np.int32(element["label"])}


class EvalTransform(grain.transforms.Map):
    """Resize and center crop: a record to uint8 [S, T, 3] and a label."""

    def __init__(
        self,
        image_size: int | tuple[int, int],
        crop: float,
        exif: str = "ignored",
    ):
        """Creates the transform.

        Args:
            image_size: Side of the result in pixels, or its height S and width T.
            crop: Fraction of the shorter side that is kept; 1 resizes the image without
                keeping its aspect ratio.
            exif: What to make of an EXIF orientation, as in `decode`.
        """
        check_exif(exif, "exif")
        self._image_size = image_size
        self._crop = crop
        self._exif = exif

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Returns `image` and `label`."""
        image = decode(element["image"], self._exif)
        image = center_crop(image, self._image_size, self._crop)
        label = np.asarray(element["label"], np.int32)
        return {"image": np.asarray(image), "label": label}


def random_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a crop as torchvision's RandomResizedCrop does.

    Args:
        size: Width and height of the image.
        scale: Bounds of the crop's fraction of the area.
        ratio: Bounds of its ratio of width to height.
        rng: Source of random numbers.

    Returns:
        Left, upper, right and lower pixel.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(x), int(y), int(x) + w, int(y) + h
    # Extreme aspect ratios: the middle, at the nearest ratio.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def center_crop(
    image: Image.Image, image_size: int | Sequence[int], crop: float
) -> Image.Image:
    """Resizes and keeps the middle, as torchvision's Resize and CenterCrop.

    Args:
        image: Any size.
        image_size: Side of the result in pixels, or its height and width.
        crop: Fraction that is kept of the side that the result fills; 1 resizes without
            cropping.
    """
    height, width = both_sides(image_size)
    if crop == 1:
        return image.resize((width, height), BICUBIC)
    old_width, old_height = image.size
    # What the resized image has to cover.
    least_height, least_width = int(height / crop), int(width / crop)
    if old_width * least_height < old_height * least_width:
        new_width = least_width
        new_height = int(least_width * old_height / old_width)
    else:
        new_width = int(least_height * old_width / old_height)
        new_height = least_height
    x, y = round((new_width - width) / 2), round((new_height - height) / 2)
    box = (x, y, x + width, y + height)
    if new_width * new_height <= _MAX_RATIO * least_width * least_height:
        return image.resize((new_width, new_height), BICUBIC).crop(box)
    # The same up to rounding, in the memory of the result.
    x_scale, y_scale = old_width / new_width, old_height / new_height
    box = (
        x * x_scale,
        y * y_scale,
        min((x + width) * x_scale, old_width),
        min((y + height) * y_scale, old_height),
    )
    return image.resize((width, height), BICUBIC, box)
