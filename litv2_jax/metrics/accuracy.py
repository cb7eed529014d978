"""Top-1 and top-5 accuracy and the mean loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from litv2_jax.metrics.absent import describe_absent, warn_absent
from litv2_jax.settings import ConfigError


class Accuracy:
    """Adds up what a classifier got right."""

    def __init__(self, class_names: Sequence[str] = ()):
        """Starts from nothing.

        Args:
            class_names: What the labels stand for; given, the classes that no image has
                are named.
        """
        self._class_names = list(class_names)
        self._sums = {"top1": 0.0, "top5": 0.0, "loss": 0.0}
        self._count = 0
        self._count_by_class = np.zeros(len(self._class_names), np.int64)

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            outputs: `top1`, `top5` and `loss` of each image [B], and `valid` [B] bool,
                false for the images that only fill up the batch; with class names, also
                `label` [B] integers.
        """
        valid = np.asarray(outputs["valid"])
        for name in self._sums:
            values = np.asarray(outputs[name], np.float64)
            self._sums[name] += float(values[valid].sum())
        self._count += int(valid.sum())
        if self._class_names:
            np.add.at(self._count_by_class, np.asarray(outputs["label"])[valid], 1)

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

    def write(self, folder: Path) -> list[Path]:
        """Writes nothing: the numbers are all there is."""
        del folder
        return []

    def table(self) -> str:
        """Returns which classes no image has; the result says everything else."""
        return describe_absent(self._absent(), "image")

    def _absent(self) -> list[str]:
        return [self._class_names[k] for k in np.flatnonzero(self._count_by_class == 0)]
