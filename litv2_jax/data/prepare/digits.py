"""Real handwritten digits that need no download, as a TFDS data set.

The images are those that scikit-learn ships: 1797 digits of 8x8 pixels with 17 levels
of grey, the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, UCI, 1998). Here they are enlarged to 64x64.
"""

import io
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

IMAGE_SIZE = 64


class Digits(tfds.core.GeneratorBasedBuilder):
    """Builder of the data set `digits`: 1437 images to train on, 360 to test with."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Every fifth image is in the test split."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"
                ),
                "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing to download.
        return {
            "train": self._generate_examples(is_test=False),
            "test": self._generate_examples(is_test=True),
        }

    def _generate_examples(self, is_test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, image, label in _list_digits():
            if (i % 5 == 0) == is_test:
                yield i, {"image": encode(image), "label": label}


def _list_digits() -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields number, levels [64] and label of each digit."""
    # Imported here, because only the preparation needs it.
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield i, image, int(label)


def write_tree(
    folder: Path, classes: Collection[int], per_class: int = 0
) -> dict[str, int]:
    """Writes digits as a tree of files, `train/5/0017.png`; returns how many of each.

    Args:
        folder: Where to write; existing files are overwritten.
        classes: The digits to take.
        per_class: Training images of each; 0 takes all.
    """
    counts: Counter[str] = Counter()
    taken: Counter[int] = Counter()
    for i, image, label in _list_digits():
        split = "val" if i % 5 == 0 else "train"
        is_enough = split == "train" and per_class and taken[label] == per_class
        if label not in classes or is_enough:
            continue
        taken[label] += split == "train"
        counts[split] += 1
        path = folder / split / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return dict(counts)


def encode(levels: np.ndarray) -> bytes:
    """Turns a digit as scikit-learn has it, levels 0 to 16 [64], into a PNG."""
    pixels = np.rint(levels.reshape(8, 8) * 255 / 16).astype(np.uint8)
    grey = Image.fromarray(pixels)
    enlarged = grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    enlarged.convert("RGB").save(file, "PNG")
    return file.getvalue()
