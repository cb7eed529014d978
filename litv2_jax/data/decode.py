"""Decodes image files: the one decoder of training, evaluation, checks and prediction.

Anything wrong with a file raises `UnreadableImageError`, which says what it is.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from litv2_jax.data.unreadable import UnreadableImageError, explain
from litv2_jax.text import literal

# Whether an EXIF orientation turns the image upright.
EXIF = ("ignored", "applied")

# How to turn an image that has one of these orientations.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)

# Pillow has Ghostscript run the program that such a file is.
_PROGRAMS = ("EPS",)

# Pillow's warnings on odd files would appear between the lines of a run; it raises an
# error for what it cannot decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(data: bytes, exif: str = "ignored") -> Image.Image:
    """Returns the RGB image of an encoded file of any raster format that Pillow knows.

    As in torchvision, transparency is dropped and only the first frame of an animation
    is used. Levels of more than 8 bits are reduced to 8: those of 16 bits to the upper
    half; for 32 bits and floating-point numbers, which define no white, see
    `_reduce_levels`.

    Args:
        data: The bytes of the file.
        exif: Whether its EXIF orientation is `ignored`, which leaves the pixels as they
            are stored, like torchvision, or `applied`, which turns the image upright.
            TIFF files, whose format includes the orientation, are always turned.

    Raises:
        UnreadableImageError: If it is not an image, is incomplete, or memory does not
            suffice.
        ValueError: If `exif` is anything else.
    """
    check_exif(exif, "exif")
    with explain_errors():
        image = to_rgb(load(data))
        return turn_upright(image) if exif == "applied" else image


def check_exif(exif: str, name: str) -> None:
    """Raises ValueError, which names the setting, unless its value is in EXIF."""
    if exif not in EXIF:
        raise ValueError(f"{name} is {exif!r}; use {' or '.join(EXIF)}.")


def load(data: bytes, subject: str = "") -> Image.Image:
    """Returns the image of an encoded file with its pixels as they are stored.

    Args:
        data: The bytes of the file.
        subject: What errors call it, unless it is the image of a record.

    Raises:
        UnreadableImageError: As in `decode`.
    """
    with explain_errors(subject):
        image = open_image(data, subject)
        image.load()
        return image


def open_image(data: bytes, subject: str = "") -> ImageFile.ImageFile:
    """Returns the image of an encoded file, having read only its header.

    Args:
        data: The bytes of the file.
        subject: As in `load`.

    Raises:
        UnreadableImageError: If it does not begin like an image.
    """
    with explain_errors(subject):
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError:
            reason = "" if data else ": the file is empty"
            raise UnreadableImageError(
                f"{subject or 'it'} is no image of a format that is known{reason}"
            ) from None


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image, from 1, which is upright, to 8.

    As in OpenCV, EXIF data that cannot be parsed are ignored. TIFF files, which Pillow
    has turned already, are upright.
    """
    exif = Image.Exif()
    # Damaged EXIF data raise many errors, and are no reason to refuse the pixels.
    with contextlib.suppress(Exception):
        exif.load(image.info.get("exif", b""))
        value = exif.get(ExifTags.Base.Orientation)
        return value if value in _TURNS else 1
    return 1


def turn_upright(image: Image.Image) -> Image.Image:
    """Returns the image turned as its EXIF orientation says."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns height and width of an image once it is turned upright."""
    width, height = image.size
    return (width, height) if orientation(image) in _SWAPS_SIDES else (height, width)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB, as `decode` does; RGB stays as it is."""
    info = image.info
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would clip these levels to white.
        image = Image.fromarray(_reduce_levels(image))
    # It would copy RGB images, 3 % of the time that a training image takes.
    if image.mode != "RGB":
        image = image.convert("RGB")
    image.info = info
    return image


@contextlib.contextmanager
def explain_errors(subject: str = "") -> Iterator[None]:
    """Turns any exception of Pillow into UnreadableImageError.

    Its type depends on the format and on where a file is damaged: OSError, SyntaxError,
    ValueError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error,
    DecompressionBombError, MemoryError and others have been seen.

    Args:
        subject: What the error is about, unless it is the image of a record.
    """
    prefix = f"{subject}: " if subject else ""
    try:
        yield
    except UnreadableImageError:
        raise
    except MemoryError:
        raise UnreadableImageError(
            f"{prefix}there is too little memory for it"
        ) from None
    except Exception as error:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise UnreadableImageError(f"{prefix}{text}") from error


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _PROGRAMS]


def _reduce_levels(image: Image.Image) -> np.ndarray:
    """Returns the levels of a gray image of more than 8 bits as uint8 [H, W].

    Levels of 16 bits lose the lower 8. Integers of 32 bits and floating-point numbers
    may have any range: the smallest that contains them all is assumed, up to 1
    (floating-point only), 255 or 65,535.

    Raises:
        UnreadableImageError: If no range contains them.
    """
    levels = np.asarray(image)
    # Pillow stores the 16 bits of a PPM file in 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return (levels >> 8).astype(np.uint8)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= 65535):  # Nor if one is NaN.
        raise UnreadableImageError(
            f"its levels go from {low:g} to {high:g}, so that it is not clear which is "
            "white: save it with 8 or 16 bits"
        )
    if image.mode == "I":
        return (levels >> 8 if high > 255 else levels).astype(np.uint8)
    scale = 255 if high <= 1 else 1 if high <= 255 else 1 / 257
    return np.rint(levels * scale).astype(np.uint8)


def read_image(path: Path, exif: str = "ignored") -> Image.Image:
    """Reads an image as RGB.

    Args:
        path: A file of any format that Pillow reads.
        exif: What to make of its EXIF orientation, as for `decode`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image that Pillow reads.
    """
    name = literal(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        return decode(path.read_bytes(), exif)
    except (UnreadableImageError, MemoryError) as error:
        raise ValueError(
            f"{name} is not an image that can be read: {explain(error)}."
        ) from None
