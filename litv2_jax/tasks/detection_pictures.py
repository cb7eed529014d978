"""Pictures of what a detector is trained on, and of what it finds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from litv2_jax.augment.normalize import denormalize
from litv2_jax.box_pictures import DrawnObject, draw_objects
from litv2_jax.data.sources.detection import DetectionSource
from litv2_jax.data.transforms.detection import find_corners
from litv2_jax.ops.masks import paste_mask
from litv2_jax.training.task import Batch

# Rows of the pictures, and the least score of what they show.
_NUM_DRAWN = 6
_DRAWN_SCORE = 0.3


def draw_inputs(batch: Batch, class_names: Sequence[str], path: Path) -> None:
    """Draws training images with their boxes.

    Args:
        batch: As `Detection.augment` left it.
        class_names: What the labels stand for.
        path: File to write.
    """
    images = np.asarray(denormalize(batch["image"]))[:_NUM_DRAWN]
    rows = []
    for i, image in enumerate(images):
        is_object = np.asarray(batch["is_object"][i])
        boxes = np.asarray(batch["boxes"][i])[is_object].tolist()
        labels = np.asarray(batch["label"][i])[is_object].tolist()
        drawn = [DrawnObject(*pair) for pair in zip(boxes, labels, strict=True)]
        rows.append([(image, drawn)])
    draw_objects(rows, ["input"], class_names, path)


def draw_predictions(
    batch: Batch, outputs: Batch, source: DetectionSource, path: Path
) -> None:
    """Draws images with their objects, and with what was found.

    Args:
        batch: For evaluation.
        outputs: Of `Detection.predict`.
        source: Of the true objects.
        path: File to write.
    """
    rows = []
    for i in np.flatnonzero(batch["valid"])[:_NUM_DRAWN]:
        height, width = size = tuple(batch["size"][i].tolist())
        image = batch["image"][i, :height, :width]
        factors = np.tile((size / batch["original_size"][i])[::-1], 2)
        record = source[int(batch["record"][i])]
        boxes = (find_corners(record["boxes"]) * factors).tolist()
        labels = record["labels"].tolist()
        truth = [DrawnObject(*pair) for pair in zip(boxes, labels, strict=True)]
        found = list(_read_found(outputs, i, factors, size))
        rows.append([(image, truth), (image, found)])
    draw_objects(rows, ["truth", "prediction"], source.class_names, path)


def _read_found(
    outputs: Batch, row: int, factors: np.ndarray, size: tuple[int, int]
) -> Iterator[DrawnObject]:
    """Yields what was found in an image of this size, resized by these factors."""
    for j in range(int(outputs["count"][row])):
        score = float(outputs["scores"][row, j])
        if score < _DRAWN_SCORE:
            return
        box = outputs["boxes"][row, j] * factors
        mask = None
        if "masks" in outputs:
            mask = paste_mask(outputs["masks"][row, j], box, size)
        label = int(outputs["labels"][row, j])
        yield DrawnObject(box.tolist(), label, score, mask)
