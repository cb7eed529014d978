"""Mean intersection over union, as mmsegmentation's `mIoU`."""

from collections.abc import Mapping, Sequence

import numpy as np


class SegmentationScores:
    """Adds up what a segmentation model got right, pixel by pixel.

    Ignored pixels count nowhere; a class that is neither in the labels nor predicted
    has no score, and the means leave it out.
    """

    def __init__(self, class_names: Sequence[str]):
        self._class_names = list(class_names)
        num_classes = len(self._class_names)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)
        self._num_images = 0

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            outputs: `confusion` [K, K] integers, pixels by label and prediction, and
                `valid` [B] bool, false for what only fills up the batch.
        """
        self._confusion += np.asarray(outputs["confusion"], np.int64)
        self._num_images += int(np.sum(outputs["valid"]))

    def result(self) -> dict[str, float]:
        """Returns `mIoU`, `aAcc` and `mAcc` as shares of 1, and `num_images`.

        Raises:
            ValueError: If no pixel with a label was added.
        """
        total = self._confusion.sum()
        if not total:
            raise ValueError(
                "There is no accuracy of no labelled pixels: evaluate some first."
            )
        iou, accuracy = self.per_class()
        return {
            "mIoU": float(np.nanmean(iou)),
            "aAcc": float(np.trace(self._confusion) / total),
            "mAcc": float(np.nanmean(accuracy)),
            "num_images": self._num_images,
        }

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns IoU and accuracy of each class [K]; NaN where there is none."""
        hits = np.diag(self._confusion).astype(np.float64)
        labels, predictions = self._confusion.sum(1), self._confusion.sum(0)
        with np.errstate(invalid="ignore"):
            return hits / (labels + predictions - hits), hits / labels

    def table(self) -> str:
        """Returns the scores of each class as a table in Markdown."""
        rows = ["| class | IoU | accuracy |", "|---|---|---|"]
        for name, *scores in zip(self._class_names, *self.per_class(), strict=True):
            cells = ["" if np.isnan(x) else f"{100 * x:.2f}" for x in scores]
            rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
        return "\n".join(rows)
