"""Masks of annotations in COCO's format: polygons and run lengths to pixels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from litv2_jax.settings import ConfigError, show


class AnnotationError(ValueError):
    """An annotation that cannot be used; its message says why."""


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the pixels of an object, bool [H, W], or None if it has no mask.

    Args:
        segmentation: Polygons, each x, y, x, y and so on; or run lengths, which begin
            with 0 and go down the columns, as numbers or compressed.
        size: Height and width of the image.

    Raises:
        AnnotationError: If it is none of these, or does not lie in the image.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _decode_runs(segmentation, size)
    if isinstance(segmentation, list):
        # Some programs write a single polygon without the list around it.
        is_single = not isinstance(segmentation[0], list)
        return _fill_polygons([segmentation] if is_single else segmentation, size)
    raise AnnotationError(
        f"its segmentation is {show(segmentation)}, neither polygons nor run lengths"
    )


def _fill_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> np.ndarray | None:
    """Returns what is in any of the polygons; None if all are lines or points."""
    for polygon in polygons:
        _check_polygon(polygon, size)
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        return None
    coco_mask = import_pycocotools()
    # On the whole image: moved into a crop, a polygon covers other pixels.
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    mask = coco_mask.decode(runs).astype(bool)
    if not mask.any():
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        low, high = points.min(0), points.max(0)
        if (high <= 0).any() or (low >= size[::-1]).any():
            raise AnnotationError(
                f"its mask lies outside of the image, which is {size[1]}x{size[0]}"
            )
    return mask


def _check_polygon(polygon: Any, size: tuple[int, int]) -> None:
    """Raises AnnotationError unless it has points not far from the image."""
    is_list = isinstance(polygon, list) and len(polygon) % 2 == 0
    if not is_list or not all(is_number(value) for value in polygon):
        raise AnnotationError(
            f"its segmentation has {show(polygon)} where x and y of each corner of a "
            "polygon should be"
        )
    # Filling takes memory in proportion to the length of the outline.
    far = 2 * max(size)
    if any(abs(value) > far for value in polygon):
        raise AnnotationError(
            f"its mask has a corner at {max(polygon, key=abs):g}, far outside of the "
            f"image, which is {size[1]}x{size[0]}"
        )


def _decode_runs(segmentation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of run lengths.

    pycocotools trusts their sum, and writes beyond its memory if that is too large.
    """
    stored, counts = segmentation.get("size"), segmentation.get("counts")
    if stored != list(size):
        raise AnnotationError(
            f"its mask is for an image of height and width {show(stored)}, but this "
            f"one has {list(size)}"
        )
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not all(
        isinstance(count, int) and count >= 0 for count in counts
    ):
        raise AnnotationError(f"its mask has the run lengths {show(counts)}")
    if sum(counts) != size[0] * size[1]:
        raise AnnotationError(
            f"its mask has run lengths of {sum(counts)} pixels in all, but the image "
            f"has {size[0] * size[1]}"
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[::-1]).T


def _decompress(text: str) -> list[int]:
    """Returns run lengths from COCO's text.

    Each is written in groups of five bits, the lowest first, as characters from `0` on;
    32 says that more follow, 16 of the last that the number is negative. From the
    fourth on, they are differences from the one before the last.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise AnnotationError(f"its mask is {show(text)}, which are no run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    return counts


def is_number(value: Any) -> bool:
    """Returns whether a value of JSON is a finite number."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def import_pycocotools() -> Any:
    """Returns the module that fills polygons.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise ConfigError(
            "Polygons are filled by pycocotools, which is not installed: run `pip "
            "install 'litv2_jax[coco]'`."
        ) from None
    return mask
