"""Finds the images to predict, and writes what was predicted."""

import csv
import glob
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from litv2_jax.data.sources.files import list_files
from litv2_jax.data.sources.folders import SUFFIXES
from litv2_jax.pictures import class_colors

OUTPUTS = (".csv", ".json")
_FROM_INPUT = "-"


def find_images(names: Sequence[str], lines: Iterable[str] = ()) -> list[Path]:
    """Returns the files that the arguments of a command stand for, in their order.

    A folder without images and a pattern that nothing matches stand for themselves.

    Args:
        names: Files; folders, which stand for the images below them; patterns such as
            `photos/*.jpg` that no shell has replaced; and `-` for the lines.
        lines: One name in each, of a file or folder or a pattern; by default those of
            the standard input.
    """
    found: list[Path] = []
    for name in names:
        if name == _FROM_INPUT:
            rest = [line.rstrip("\r\n") for line in lines or sys.stdin]
            found += find_images([x for x in rest if x and x != _FROM_INPUT])
            continue
        path = Path(os.path.expanduser(name))
        below = list_files(path, SUFFIXES) if path.is_dir() else []
        is_pattern = glob.has_magic(name) and not path.exists()
        matches = sorted(glob.glob(str(path), recursive=True)) if is_pattern else []
        # What stands for nothing is named, like a file that does not exist.
        found += [path / each for each in below] or [Path(x) for x in matches] or [path]
    return found


class Predictions:
    """What was predicted for images, for a file.

    A CSV file has a row for each prediction, the image first; a JSON file a list of
    `image` and `predictions`.
    """

    def __init__(self):
        self._of_image: list[tuple[str, list[Mapping[str, Any]]]] = []

    def add(self, image: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
        """Adds what was predicted for an image; values by the names of columns."""
        self._of_image.append((str(image), list(predictions)))

    def write(self, path: Path) -> None:
        """Writes a file whose suffix is one of `OUTPUTS`."""
        with path.open(
            "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as f:
            if path.suffix.lower() == ".json":
                json.dump(
                    [
                        {"image": image, "predictions": predictions}
                        for image, predictions in self._of_image
                    ],
                    f,
                    indent=2,
                )
                return
            rows = [
                {"image": image, **prediction}
                for image, predictions in self._of_image
                for prediction in predictions
            ]
            names = dict.fromkeys(name for row in rows for name in row)
            writer = csv.DictWriter(f, list(names) or ["image"])
            writer.writeheader()
            writer.writerows(rows)


def write_class_map(classes: np.ndarray, num_classes: int, path: Path) -> None:
    """Writes a PNG whose pixels are numbers of classes, with a palette to look at.

    Args:
        classes: int [H, W].
        num_classes: Number of classes; with more than 256, pixels have 16 bits and no
            palette.
        path: File to write.
    """
    if num_classes > 256:
        Image.fromarray(classes.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(classes.astype(np.uint8), mode="P")
    image.putpalette(class_colors(num_classes).astype(np.uint8).tobytes())
    image.save(path)
