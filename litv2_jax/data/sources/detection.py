"""Images with objects: prepared from COCO files, or drawn."""

import io
import json
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
from PIL import Image
from tensorflow_datasets.core import constants

from litv2_jax.data.detection_records import (
    Annotation,
    DetectionIndex,
    create_record,
    describe_record,
    find_mask_box,
    from_bytes,
)
from litv2_jax.data.prepare.shapes import SHAPES
from litv2_jax.data.sources.open_files import allow_many_open_files
from litv2_jax.data.sources.tfds import TfdsSource
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError
from litv2_jax.text import literal

DRAWN = "shapes"

CATEGORIES, RECORDS, INDEX = "categories.json", ".array_record", ".index.safetensors"


class DetectionSource(Protocol):
    """Images with objects at random; can be sent to other processes.

    Attributes:
        class_names: What the labels stand for.
        category_ids: COCO's number of each class.
        index: What is known of all images.
    """

    class_names: list[str]
    category_ids: list[int]
    index: DetectionIndex

    def __len__(self) -> int:
        """Returns how many images there are."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record; see `detection_records`."""
        ...

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        ...


def open_detection_source(name: str, split: str, data_dir: str) -> DetectionSource:
    """Opens one split of a data set that has the boxes of objects.

    Args:
        name: What `litv2_jax.prepare coco` was given as `--name`, or `shapes`.
        split: What it was given as `--split`, or a TFDS split of the shapes.
        data_dir: What it was given as `--data-dir`; "" is TFDS's own folder.

    Raises:
        ConfigError: If it is not there, or is not complete.
    """
    allow_many_open_files()
    if name == DRAWN:
        return DrawnShapes(split, data_dir)
    return CocoRecords(name, split, data_dir)


def find_folder(name: str, data_dir: str) -> Path:
    """Returns where a prepared data set is, or would be."""
    return expand_path(data_dir or str(constants.DATA_DIR)) / name


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Returns the classes of a prepared data set, each with `id` and `name`."""
    return json.loads(path.read_text(encoding="utf-8"))


class CocoRecords:
    """One split that `litv2_jax.prepare coco` has written."""

    def __init__(self, name: str, split: str, data_dir: str):
        """Opens the split.

        Args:
            name: Of the data set.
            split: One of its splits.
            data_dir: As for `open_detection_source`.

        Raises:
            ConfigError: If it is not there, or is not complete.
        """
        folder = find_folder(name, data_dir)
        self._path = folder / f"{split}{RECORDS}"
        if not self._path.is_file():
            raise ConfigError(_describe_missing(name, split, folder))
        paths = folder / CATEGORIES, folder / f"{split}{INDEX}"
        for path in paths:
            if not path.is_file():
                raise ConfigError(
                    f"{path} is missing; copy it again from where the others came."
                )
        categories = read_categories(paths[0])
        self.class_names = [each["name"] for each in categories]
        self.category_ids = [each["id"] for each in categories]
        self.index = DetectionIndex.read(paths[1])
        self._records: Any = grain.sources.ArrayRecordDataSource([str(self._path)])
        if len(self._records) != len(self.index.sizes):
            raise ConfigError(
                f"{self._path} has {len(self._records)} records, but its index "
                f"{len(self.index.sizes)}; prepare the data set again."
            )

    def __len__(self) -> int:
        return len(self.index.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return from_bytes(self._records[index])
        # What array_record raises where a file is damaged.
        except RuntimeError as error:
            raise UnreadableImageError(str(error)) from error

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        try:
            name = literal(bytes(self[index]["file_name"]).decode())
        except UnreadableImageError:
            name = f"image {self.index.image_ids[index]}"
        return f"{name} (record {index} of {self._path})"


class DrawnShapes(TfdsSource):
    """One split of the drawn shapes, whose masks are the pixels that can be seen."""

    def __init__(self, split: str, data_dir: str):
        """Opens the split, and draws the data set first if it is not there.

        Args:
            split: A TFDS split, such as `train[:50]`.
            data_dir: As for `open_detection_source`.
        """
        super().__init__(
            DRAWN,
            split,
            data_dir,
            needed=["image", "instances", "objects"],
            purpose="detection",
        )
        self.class_names = list(SHAPES)
        # As in COCO, 0 is no class.
        self.category_ids = list(range(1, len(SHAPES) + 1))
        self.index = DetectionIndex.build(
            describe_record(self[i], i) for i in range(len(self))
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index)
        instances = np.asarray(Image.open(io.BytesIO(record["instances"])))
        labels = [int(label) for label in record["objects"]["label"]]
        annotations = []
        for number, label in enumerate(labels, 1):
            mask = instances == number
            annotations.append(
                Annotation(find_mask_box(mask), label, float(mask.sum()), mask)
            )
        name, size = f"shapes/{index}.png", instances.shape
        return create_record(record["image"], name, size, annotations)


def _describe_missing(name: str, split: str, folder: Path) -> str:
    """Returns a sentence on a split that is not there."""
    found = sorted(p.name.removesuffix(RECORDS) for p in folder.glob(f"*{RECORDS}"))
    if found:
        return (
            f"{name} has no split {literal(split)} in {folder}; it has "
            f"{', '.join(found)}."
        )
    return (
        f"{name} is not prepared in {folder}: `python -m litv2_jax.prepare coco` does "
        "it from annotations in COCO's format; then point config.data.data_dir at the "
        "folder it was given as --data-dir."
    )
