"""Top-1 and top-5 accuracy and the mean loss."""

from collections.abc import Mapping

import numpy as np


class Accuracy:
    """Adds up what a classifier got right."""

    def __init__(self):
        self._sums = {"top1": 0.0, "top5": 0.0, "loss": 0.0}
        self._count = 0

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            outputs: `top1`, `top5` and `loss` of each image [B], and `valid` [B] bool,
                false for the images that only fill up the batch.
        """
        valid = np.asarray(outputs["valid"])
        for name in self._sums:
            values = np.asarray(outputs[name], np.float64)
            self._sums[name] += float(values[valid].sum())
        self._count += int(valid.sum())

    def result(self) -> dict[str, float]:
        """Returns the accuracies as shares of 1, and the mean loss.

        Raises:
            ValueError: If no image was added.
        """
        if not self._count:
            raise ValueError("There is no accuracy of no images: evaluate some first.")
        means = {name: total / self._count for name, total in self._sums.items()}
        return {**means, "num_images": self._count}

    def table(self) -> str:
        """Returns nothing: the result says it all."""
        return ""
