"""Top-1 and top-5 accuracy, the mean loss, and scores of each class."""

from collections.abc import Mapping, Sequence

import numpy as np

from litv2_jax.metrics.absent import describe_absent, warn_absent
from litv2_jax.metrics.confusion import Confusion
from litv2_jax.settings import ConfigError


class Accuracy:
    """Adds up what a classifier got right.

    Attributes:
        confusion: Counts by class; None if the classes have no names.
    """

    def __init__(self, class_names: Sequence[str] = ()):
        """Starts from nothing.

        Args:
            class_names: What the labels stand for; given, there are scores of each
                class, and the classes that no image has are named.
        """
        self.confusion = Confusion(class_names) if class_names else None
        self._sums = {"top1": 0.0, "top5": 0.0, "loss": 0.0}
        self._count = 0

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            outputs: `top1`, `top5` and `loss` of each image [B], and `valid` [B] bool,
                false for the images that only fill up the batch; with class names, also
                `label` and `prediction` [B] integers.
        """
        valid = np.asarray(outputs["valid"])
        for name in self._sums:
            values = np.asarray(outputs[name], np.float64)
            self._sums[name] += float(values[valid].sum())
        self._count += int(valid.sum())
        if self.confusion:
            labels, predictions = (
                np.asarray(outputs[name])[valid] for name in ("label", "prediction")
            )
            self.confusion.add(labels, predictions)

    def result(self) -> dict[str, float]:
        """Returns the accuracies as shares of 1, and the mean loss.

        Raises:
            ConfigError: If no image was added.
        """
        if not self._count:
            raise ConfigError(
                "No images were evaluated, so that there is no accuracy: give an "
                "evaluation split with images that can be read."
            )
        warn_absent(self._absent(), "image")
        means = {name: total / self._count for name, total in self._sums.items()}
        return {**means, "num_images": self._count}

    def table(self) -> str:
        """Returns the scores of each class, and which classes no image has."""
        if not self.confusion:
            return ""
        absent = describe_absent(self._absent(), "image")
        return self.confusion.table() + (f"\n\n{absent}" if absent else "")

    def _absent(self) -> list[str]:
        return self.confusion.absent() if self.confusion else []
