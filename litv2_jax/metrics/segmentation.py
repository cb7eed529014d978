"""Mean intersection over union, as mmsegmentation's `mIoU`."""

from collections.abc import Mapping, Sequence

import numpy as np

from litv2_jax.metrics.absent import describe_absent, warn_absent
from litv2_jax.settings import ConfigError
from litv2_jax.text import literal


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
            ConfigError: If no pixel with a label was added.
        """
        total = self._confusion.sum()
        if not total:
            raise ConfigError(
                "There is no accuracy of no labelled pixels: all those of the "
                f"evaluation split, {self._num_images} images, are ignored. See that "
                "its annotations have the numbers of classes, and that "
                "config.data.zero_label is right."
            )
        warn_absent(self._absent(), "pixel")
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
        """Returns the scores of each class as a table in Markdown.

        Below it are named the classes that no pixel has.
        """
        rows = ["| class | IoU | accuracy |", "|---|---|---|"]
        for name, *scores in zip(self._class_names, *self.per_class(), strict=True):
            cells = ["" if np.isnan(x) else f"{100 * x:.2f}" for x in scores]
            # The only character that ends a cell.
            name = literal(name).replace("|", "\\|")
            rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
        absent = describe_absent(self._absent(), "pixel")
        return "\n".join(rows + ["", absent] * bool(absent))

    def _absent(self) -> list[str]:
        counts = self._confusion.sum(1)
        return [self._class_names[k] for k in np.flatnonzero(counts == 0)]
