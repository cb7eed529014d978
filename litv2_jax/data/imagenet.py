"""From encoded images to the pixels that ImageNet classifiers see.

The transforms are those of torchvision and timm: bicubic with antialiasing, on uint8.
"""

import io
import math
import struct
import zlib
from typing import Any

import grain
import numpy as np
from PIL import Image, UnidentifiedImageError

from litv2_jax.data.unreadable import UnreadableImageError

BICUBIC = Image.Resampling.BICUBIC

# What Pillow raises for bytes that are not a whole image, depending on the format.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class TrainTransform(grain.transforms.RandomMap):
    """Random resized crop and flip: a record to uint8 [S, S, 3] and a label."""

    def __init__(
        self,
        image_size: int,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        flip: float,
    ):
        """Creates the transform.

        Args:
            image_size: Side S of the result in pixels.
            scale: Least and largest share of the image's area to crop.
            ratio: Least and largest ratio of width to height of the crop.
            flip: Probability of mirroring left and right.
        """
        self._image_size = image_size
        self._scale = scale
        self._ratio = ratio
        self._flip = flip

    def random_map(
        self, element: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Returns `image` and `label`."""
        image = decode(element["image"])
        box = random_box(image.size, self._scale, self._ratio, rng)
        # Cropped before it is resized, so that nothing outside the box shines through.
        size = (self._image_size, self._image_size)
        image = image.crop(box).resize(size, BICUBIC)
        if rng.random() < self._flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"image": np.asarray(image), "label": np.int32(element["label"])}


class EvalTransform(grain.transforms.Map):
    """Resize and crop to the middle: a record to uint8 [S, S, 3] and a label."""

    def __init__(self, image_size: int, crop: float):
        """Creates the transform.

        Args:
            image_size: Side S of the result in pixels.
            crop: Share of the shorter side that is kept; 1 squeezes the whole image
                into the square.
        """
        self._image_size = image_size
        self._crop = crop

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Returns `image` and `label`."""
        image = center_crop(decode(element["image"]), self._image_size, self._crop)
        return {"image": np.asarray(image), "label": np.int32(element["label"])}


def decode(data: bytes) -> Image.Image:
    """Returns the RGB image of an encoded file of any format that Pillow knows.

    As in torchvision, the pixels stay as they are stored: nothing is turned upright by
    what EXIF says of the camera, and transparency is ignored.

    Raises:
        UnreadableImageError: If it is not an image, or not a whole one.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        if image.mode == "I" or image.mode.startswith("I;16"):
            # Pillow would clip 16 bits of grey to white; of colour it, too, takes the
            # upper eight.
            levels = np.asarray(image).clip(0, 65535) >> 8
            image = Image.fromarray(levels.astype(np.uint8))
        # Of RGB it would make a copy, 3 % of the time that a training image takes.
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImageError("it is no image of a format that is known") from None
    except _PILLOW_ERRORS as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def random_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a crop as torchvision's RandomResizedCrop does.

    Args:
        size: Width and height of the image.
        scale: Bounds of the crop's share of the area.
        ratio: Bounds of its ratio of width to height.
        rng: Where the random numbers come from.

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
    # No luck with an image this long: its middle, at the nearest ratio.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, round(height * aspect))
    h = min(height, round(width / aspect))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def center_crop(image: Image.Image, image_size: int, crop: float) -> Image.Image:
    """Resizes and keeps the middle, as torchvision's Resize and CenterCrop.

    Args:
        image: Any size.
        image_size: Side of the result in pixels.
        crop: Share of the shorter side that is kept; 1 squeezes the whole image.
    """
    if crop == 1:
        return image.resize((image_size, image_size), BICUBIC)
    short = int(image_size / crop)
    width, height = image.size
    if width < height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    image = image.resize((width, height), BICUBIC)
    x, y = round((width - image_size) / 2), round((height - image_size) / 2)
    return image.crop((x, y, x + image_size, y + image_size))
