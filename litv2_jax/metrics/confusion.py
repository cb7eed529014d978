"""What a classifier takes the images of each class for."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from litv2_jax.text import literal

# Rows of a table to read; there are files for more.
_MAX_ROWS = 50
# Classes of which all pairs are counted: 8 MB of counts.
_MAX_PAIRS = 1000


class Confusion:
    """Counts images by label and prediction.

    Attributes:
        class_names: What the labels stand for.
        pairs: [K, K] images by label and prediction; None with more than 1,000 classes.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = list(class_names)
        count = len(self.class_names)
        self.pairs = np.zeros((count, count), np.int64) if count <= _MAX_PAIRS else None
        self._labels, self._predictions, self._hits = np.zeros((3, count), np.int64)

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds images.

        Args:
            labels: [N] integers.
            predictions: [N] integers, the most probable class.
        """
        np.add.at(self._labels, labels, 1)
        np.add.at(self._predictions, predictions, 1)
        np.add.at(self._hits, labels[labels == predictions], 1)
        if self.pairs is not None:
            np.add.at(self.pairs, (labels, predictions), 1)

    def absent(self) -> list[str]:
        """Returns the names of the classes that no image has."""
        return [self.class_names[k] for k in np.flatnonzero(self._labels == 0)]

    def per_class(self) -> dict[str, np.ndarray]:
        """Returns `precision`, `recall` and `f1` of each class, each [K].

        The recall is the accuracy among the images of a class. NaN stands where there
        is nothing to divide by: no image of the class, or none taken for it.
        """
        hits = self._hits.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "precision": hits / self._predictions,
                "recall": hits / self._labels,
                "f1": 2 * hits / (self._labels + self._predictions),
            }

    def table(self) -> str:
        """Returns the scores of each class in Markdown; of many, of the worst by F1.

        The means are over the classes that have images.
        """
        scores = self.per_class()
        order = np.arange(len(self.class_names))
        if len(order) > _MAX_ROWS:
            order = np.argsort(np.nan_to_num(scores["f1"], nan=2), kind="stable")
            order = order[:_MAX_ROWS]
        rows = ["| class | images | precision | recall | F1 |", "|---|---|---|---|---|"]
        for k in order:
            # The only character that ends a cell.
            name = literal(self.class_names[k]).replace("|", "\\|")
            cells = " | ".join(_percent(each[k]) for each in scores.values())
            rows.append(f"| {name} | {self._labels[k]} | {cells} |")
        has_images = self._labels > 0
        means = [np.nan_to_num(each[has_images]).mean() for each in scores.values()]
        rows.append(
            f"| mean | {self._labels.sum()} | {' | '.join(map(_percent, means))} |"
        )
        if len(self.class_names) > _MAX_ROWS:
            rows += ["", f"The {_MAX_ROWS} classes with the lowest F1 are listed."]
        return "\n".join(rows)

    def write(self, folder: Path) -> list[Path]:
        """Writes `classes.csv`, fractions of 1, and `confusion.csv`; returns them.

        Args:
            folder: Existing folder to write to.
        """
        scores = self.per_class()
        rows = zip(self.class_names, self._labels, *scores.values(), strict=True)
        written = [folder / "classes.csv"]
        _write(written[0], [["class", "images", *scores], *rows])
        if self.pairs is not None:
            header = ["label \\ prediction", *self.class_names]
            pairs = zip(self.class_names, self.pairs.tolist(), strict=True)
            rows = [[name, *row] for name, row in pairs]
            written.append(folder / "confusion.csv")
            _write(written[1], [header, *rows])
        return written


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.2f}"


def _write(path: Path, rows: Sequence) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        csv.writer(f).writerows(rows)
