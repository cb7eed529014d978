"""What a detector found in one image, for people."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from litv2_jax.ops.detections import Detections
from litv2_jax.ops.masks import paste_mask


@dataclasses.dataclass(frozen=True, eq=False)
class DetectedObject:
    """An object in an image.

    Attributes:
        name: Its class.
        label: Number of the class.
        score: How sure the model is, from 0 to 1.
        box: x_min, y_min, x_max, y_max in pixels of the image.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]
    _probabilities: np.ndarray | None
    _image_size: tuple[int, int]

    @property
    def mask(self) -> np.ndarray | None:
        """Its pixels, bool [H, W] of the image; None if the model finds no masks."""
        if self._probabilities is None:
            return None
        return paste_mask(self._probabilities, np.array(self.box), self._image_size)


def list_objects(
    found: Detections,
    class_names: Sequence[str],
    image_size: tuple[int, int],
    threshold: float,
) -> list[DetectedObject]:
    """Returns the objects of the only image of a batch, the best first.

    Args:
        found: Of one image.
        class_names: What the labels stand for.
        image_size: Its height and width.
        threshold: Least score of an object.
    """
    count = int(found.count[0])
    scores = np.asarray(found.scores[0])[:count]
    masks = None if found.masks is None else np.asarray(found.masks[0])
    objects = []
    for i in np.flatnonzero(scores >= threshold).tolist():
        label = int(found.labels[0, i])
        x_min, y_min, x_max, y_max = np.asarray(found.boxes[0, i]).tolist()
        objects.append(
            DetectedObject(
                class_names[label],
                label,
                float(scores[i]),
                (x_min, y_min, x_max, y_max),
                None if masks is None else masks[i],
                image_size,
            )
        )
    return objects
