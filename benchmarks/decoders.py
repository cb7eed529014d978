"""Ways from a JPEG file to an image that Pillow can crop, to be compared.

Each takes a file and the crop wanted of the whole image, and returns an image with the
place of that crop in it.
"""

import importlib
import importlib.util
import io
import math
from collections.abc import Callable
from typing import Any

from PIL import Image

from litv2_jax.data.transforms import imagenet

# Not one of the project's dependencies: compared where someone has installed it.
_IS_INSTALLED = importlib.util.find_spec("simplejpeg") is not None
simplejpeg: Any = importlib.import_module("simplejpeg") if _IS_INSTALLED else None

Box = tuple[int, int, int, int]
Decoder = Callable[[bytes, Box], tuple[Image.Image, Box]]
IMAGE_SIZE = 224


def decode_as_training(data: bytes, box: Box) -> tuple[Image.Image, Box]:
    """Calls what training calls."""
    return imagenet.decode(data), box


def decode_with_draft(data: bytes, box: Box) -> tuple[Image.Image, Box]:
    """Decodes at 1/2, 1/4 or 1/8 of the size where the crop stays large enough."""
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    left, upper, right, lower = box
    enough = (
        math.ceil(width * IMAGE_SIZE / (right - left)),
        math.ceil(height * IMAGE_SIZE / (lower - upper)),
    )
    image.draft("RGB", enough)
    x, y = image.width / width, image.height / height
    box = (round(left * x), round(upper * y), round(right * x), round(lower * y))
    return image.convert("RGB"), box


def decode_with_simplejpeg(data: bytes, box: Box) -> tuple[Image.Image, Box]:
    """Decodes all pixels by libjpeg-turbo; reads no other format than JPEG."""
    return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB")), box


def list_decoders() -> dict[str, Decoder]:
    """Returns the decoders that are installed, by name; the first is training's."""
    decoders: dict[str, Decoder] = {
        "imagenet.decode": decode_as_training,
        "Pillow, draft": decode_with_draft,
    }
    if simplejpeg:
        decoders["simplejpeg"] = decode_with_simplejpeg
    return decoders


def crop_and_resize(image: Image.Image, box: Box) -> Image.Image:
    """Does what training does after decoding, apart from the flip."""
    return image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), imagenet.BICUBIC)
