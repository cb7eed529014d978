"""Resizes, crops and flips images together with their labels and boxes.

The numbers are those of mmcv and OpenCV, with which the published results were made.
Images are uint8 [H, W, 3] in RGB, labels uint8 [H, W].
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

IGNORED = 255  # Label of ignored pixels.

_MAX_REDRAWS = 10

# Several images are processed in parallel already.
cv2.setNumThreads(1)


def both_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns height and width, which are equal if one number is given."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def keep_ratio_size(
    size: tuple[int, int], long_side: int, short_side: int
) -> tuple[int, int]:
    """Returns the largest size of the same ratio that fits, as mmcv rounds it.

    Args:
        size: Height and width.
        long_side: Upper bound of the longer side, in pixels.
        short_side: Upper bound of the shorter side.
    """
    factor = min(long_side / max(size), short_side / min(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes bilinearly, without antialiasing, to a height and width."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes to a height and width by taking the nearest pixel."""
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)


def resize_boxes(
    boxes: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]
) -> np.ndarray:
    """Scales boxes with their image, and clips them to it.

    Args:
        boxes: float32 [N, 4] as x_min, y_min, x_max, y_max in pixels.
        size: Height and width before.
        new_size: Height and width after.
    """
    height, width = new_size
    scale = np.array([width / size[1], height / size[0]] * 2, np.float32)
    return np.clip(boxes * scale, 0, np.array([width, height] * 2, np.float32))


def flip(array: np.ndarray) -> np.ndarray:
    """Mirrors an image or a label left and right."""
    return cv2.flip(array, 1)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Mirrors boxes float32 [N, 4] as `flip` does their image of this width."""
    x_min, y_min, x_max, y_max = boxes.T
    return np.stack([width - x_max, y_min, width - x_min, y_max], axis=1)


def crop(array: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cuts x_min, y_min, x_max, y_max out of an image or a label; a view of it."""
    x_min, y_min, x_max, y_max = box
    return array[y_min:y_max, x_min:x_max]


def pad(array: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """Returns an image or a label in the upper left corner of a canvas of one value.

    Args:
        array: Not larger than the canvas.
        size: Height and width of the canvas.
        value: Of an image 0, of a label IGNORED.
    """
    height, width = array.shape[:2]
    canvas = np.full((*size, *array.shape[2:]), value, array.dtype)
    canvas[:height, :width] = array
    return canvas


def random_crop_box(
    label: np.ndarray,
    crop_size: int | tuple[int, int],
    rng: np.random.Generator,
    max_share: float,
) -> tuple[int, int, int, int]:
    """Draws a crop that is not filled by one class, if ten redraws find one.

    Args:
        label: uint8 [H, W].
        crop_size: Side in pixels, or height and width; a smaller label is not cropped.
        rng: Source of random numbers.
        max_share: Fraction of the pixels that are not ignored that no class may reach.

    Returns:
        x_min, y_min, x_max, y_max.
    """
    height, width = label.shape
    crop_height, crop_width = both_sides(crop_size)

    def draw() -> Iterator[tuple[int, int, int, int]]:
        for _ in range(1 + _MAX_REDRAWS):
            y = int(rng.integers(max(height - crop_height, 0) + 1))
            x = int(rng.integers(max(width - crop_width, 0) + 1))
            yield x, y, min(x + crop_width, width), min(y + crop_height, height)

    return choose_crop(label, draw(), max_share)


def choose_crop(
    label: np.ndarray, boxes: Iterable[tuple[int, int, int, int]], max_share: float
) -> tuple[int, int, int, int]:
    """Returns the first box that no single class fills, else the last.

    Args:
        label: uint8 [H, W].
        boxes: One at least; those after the chosen one are not drawn.
        max_share: As in `random_crop_box`; from 1 on, the first box is taken.
    """
    box = None
    for box in boxes:
        if max_share >= 1 or _has_several_classes(crop(label, box), max_share):
            return box
    if box is None:
        raise ValueError("There are no boxes to choose a crop from.")
    return box


def _has_several_classes(label: np.ndarray, max_share: float) -> bool:
    """Returns whether there are classes, none with this fraction of their pixels."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[IGNORED] = 0
    return bool(counts.any() and counts.max() / counts.sum() < max_share)


def reduce_zero_label(label: np.ndarray) -> np.ndarray:
    """Returns a label in which 0 is ignored and the others are one less."""
    reduced = label - np.uint8(1)  # 0 becomes 255.
    reduced[label == IGNORED] = IGNORED
    return reduced
