"""Masks as COCO's compressed run lengths, which pycocotools reads."""

from typing import Any

import numpy as np


def encode_mask(
    crop: np.ndarray, top: int, left: int, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns a mask in COCO's format, fit for JSON.

    Args:
        crop: bool [h, w], the part of the mask that is not empty.
        top: Row of the image where it begins.
        left: Column likewise.
        size: Height and width of the image.
    """
    # Only those who detect need it.
    from pycocotools import mask as coco_mask

    mask = np.zeros(size, np.uint8, order="F")
    height, width = crop.shape
    mask[top : top + height, left : left + width] = crop
    # Bytes, whatever the annotation of pycocotools says.
    counts: Any = coco_mask.encode(mask)["counts"]
    return {"size": list(size), "counts": counts.decode("ascii")}
