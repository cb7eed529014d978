"""From records of images with objects to pixels, boxes and masks.

The transforms are those of mmdetection 2.11: resized whole, mirrored, and padded; see
`detection_records` for what a record has.
"""

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from litv2_jax.data.decode import decode
from litv2_jax.data.detection_records import find_trained, select_masks
from litv2_jax.data.transforms import geometry
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.ops.mask_bits import map_pixels

Arrays = dict[str, np.ndarray]


class DetectionTrainTransform(grain.transforms.RandomMap):
    """A record and its `canvas` to an image and what it shows, all padded."""

    def __init__(
        self, scale: tuple[int, int], flip: float, *, max_objects: int, num_bytes: int
    ):
        """Creates the transform.

        Args:
            scale: What the longer and the shorter side of an image may have, in pixels.
            flip: Probability of mirroring left and right.
            max_objects: Number G of objects that there is room for.
            num_bytes: Of the packed masks of an image; 0 leaves them out.
        """
        self._scale = scale
        self._flip = flip
        self._max_objects = max_objects
        self._num_bytes = num_bytes

    def random_map(
        self, element: Mapping[str, Any], rng: np.random.Generator
    ) -> Arrays:
        """Returns the arrays of one row of a training batch.

        Shapes: `image` uint8 [H, W, 3], 0 outside of `size` int32 [2]; `boxes` float32
        [G, 4] in pixels of the resized image; `label` int32 [G]; `is_object` bool [G];
        and with masks `mask_bits` uint8 [bytes], `mask_places` int32 [G, 5], `row_map`
        int32 [H] and `column_map` int32 [W], as in `ops.truth.TrueMasks`.

        Args:
            element: A record, with `canvas`, H and W; with nothing else, a black image
                without objects is returned.
            rng: Where the random numbers come from.
        """
        canvas = element["canvas"]
        if "image" not in element:
            return self._create_empty(canvas)
        image, size = read_image(element, self._scale)
        is_flipped = bool(rng.random() < self._flip)
        is_trained = find_trained(element)
        boxes = find_corners(element["boxes"][is_trained])
        old_size = tuple(element["size"].tolist())
        boxes = geometry.resize_boxes(boxes, old_size, size)
        if is_flipped:
            image, boxes = geometry.flip(image), geometry.flip_boxes(boxes, size[1])
        arrays = {
            "image": geometry.pad(image, canvas, 0),
            "size": np.array(size, np.int32),
            "boxes": self._fill(boxes),
            "label": self._fill(element["labels"][is_trained]),
            "is_object": self._fill(np.ones(len(boxes), bool)),
        }
        if not self._num_bytes:
            return arrays
        bits, places = select_masks(element, is_trained)
        row_map, column_map = (
            map_pixels(old_size[i], size[i], length=canvas[i], is_flipped=flipped)
            for i, flipped in enumerate((False, is_flipped))
        )
        return {
            **arrays,
            "mask_bits": np.pad(bits, (0, self._num_bytes - len(bits))),
            "mask_places": self._fill(places),
            "row_map": row_map,
            "column_map": column_map,
        }

    def _create_empty(self, canvas: tuple[int, int]) -> Arrays:
        count = self._max_objects
        arrays = {
            "image": np.zeros((*canvas, 3), np.uint8),
            "size": np.array(canvas, np.int32),
            "boxes": np.zeros((count, 4), np.float32),
            "label": np.zeros(count, np.int32),
            "is_object": np.zeros(count, bool),
        }
        if not self._num_bytes:
            return arrays
        return {
            **arrays,
            "mask_bits": np.zeros(self._num_bytes, np.uint8),
            "mask_places": np.zeros((count, 5), np.int32),
            "row_map": np.zeros(canvas[0], np.int32),
            "column_map": np.zeros(canvas[1], np.int32),
        }

    def _fill(self, array: np.ndarray) -> np.ndarray:
        """Fills up to G rows with zeros."""
        missing = self._max_objects - len(array)
        return np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)))


class DetectionEvalTransform(grain.transforms.Map):
    """The whole image, resized: `image` and `original_size`."""

    def __init__(self, scale: tuple[int, int]):
        """Creates the transform.

        Args:
            scale: What the longer and the shorter side of an image may have, in pixels.
        """
        self._scale = scale

    def map(self, element: Mapping[str, Any]) -> Arrays:
        """Returns `image` uint8 [H, W, 3] and `original_size` int32 [2]."""
        image, _ = read_image(element, self._scale)
        return {"image": image, "original_size": element["size"]}


def read_image(
    record: Mapping[str, Any], scale: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the image of a record, upright and resized, and its height and width.

    Raises:
        UnreadableImageError: If it cannot be decoded, or has another size than its
            annotations are for.
    """
    pixels = np.asarray(decode(bytes(record["image"]), "applied"))
    height, width = record["size"].tolist()
    if pixels.shape[:2] != (height, width):
        raise UnreadableImageError(
            f"it has {pixels.shape[1]}x{pixels.shape[0]} pixels, but its annotations "
            f"are for {width}x{height}"
        )
    size = geometry.keep_ratio_size((height, width), *scale)
    return geometry.resize_image(pixels, size), size


def find_corners(boxes: np.ndarray) -> np.ndarray:
    """Returns x_min, y_min, x_max, y_max from x, y, width, height: float32 [N, 4]."""
    corners = boxes.copy()
    corners[:, 2:] += boxes[:, :2]
    return corners.astype(np.float32)
