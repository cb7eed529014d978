"""Data sets in COCO's format, prepared once so that training reads no JSON.

A folder has `categories.json`, and for each split its records and their index; see
`detection_records` for what is in them.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_datasets.core import file_adapters
from tqdm import tqdm

from litv2_jax.data.decode import open_image, orientation, upright_size
from litv2_jax.data.detection_records import (
    Annotation,
    DetectionIndex,
    create_record,
    describe_record,
    find_mask_box,
    to_bytes,
)
from litv2_jax.data.prepare.coco_file import CocoFile, read_coco_file
from litv2_jax.data.prepare.coco_masks import AnnotationError, decode_mask, is_number
from litv2_jax.data.sources.detection import (
    CATEGORIES,
    INDEX,
    RECORDS,
    find_folder,
    read_categories,
)
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError, show
from litv2_jax.text import literal

_ADAPTER: Any = file_adapters.ADAPTER_FOR_FORMAT[file_adapters.FileFormat.ARRAY_RECORD]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        folder: Of the data set.
        index: Of the split.
        num_classes: Number of classes.
        problems: What was left out, a sentence each.
    """

    folder: Path
    index: DetectionIndex
    num_classes: int
    problems: list[str]


def prepare_coco(
    annotations: Path,
    images: Path,
    data_dir: str,
    *,
    name: str,
    split: str,
    allow_partial: bool,
) -> Prepared:
    """Writes one split of a data set; nothing is left behind if it fails.

    Args:
        annotations: File in COCO's format.
        images: Folder of the images that it names.
        data_dir: Folder for data sets; "" is where TFDS keeps its.
        name: Of the data set, a folder in it.
        split: Of the split.
        allow_partial: Whether to leave out what cannot be used.

    Raises:
        ConfigError: If an image or an annotation cannot be used, or the split is
            prepared already or has other classes than the others.
    """
    for option, value in (("--name", name), ("--split", split)):
        if not value or Path(value).name != value:
            raise ConfigError(
                f"{option} is {show(value)}; give a name without slashes."
            )
    folder = find_folder(name, data_dir)
    target = folder / f"{split}{RECORDS}"
    if target.exists():
        raise ConfigError(
            f"{name} has a split {split} already; remove {target} to prepare it again."
        )
    if not images.is_dir():
        raise ConfigError(f"There is no folder {images}; see --images.")
    file = read_coco_file(annotations)
    _check_categories(file, folder / CATEGORIES)
    problems = file.problems
    if not allow_partial:
        file.check_counts()
        _check_problems(problems, annotations)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{split}.", dir=folder) as made:
        records, index_path = Path(made) / "records", Path(made) / "index"
        rows: list[dict[str, int]] = []
        _ADAPTER.write_examples(records, _create_records(file, images, rows, problems))
        if not allow_partial:
            _check_problems(problems, annotations)
        if not rows:
            raise ConfigError(f"No image of {annotations} can be used: {problems[0]}")
        written = _ADAPTER.num_examples(records)
        if written != len(rows):
            raise ConfigError(
                f"{written} of {len(rows)} records were written; is the disk of "
                f"{folder} full?"
            )
        index = DetectionIndex.build(rows)
        index.write(index_path)
        text = json.dumps(file.categories, indent=1, ensure_ascii=False)
        (folder / CATEGORIES).write_text(text, encoding="utf-8")
        os.replace(index_path, folder / f"{split}{INDEX}")
        os.replace(records, target)
    return Prepared(folder, index, len(file.categories), problems)


def _check_categories(file: CocoFile, path: Path) -> None:
    """Raises ConfigError if other splits have other classes."""
    if not path.exists():
        return
    stored = read_categories(path)
    if stored != file.categories:
        differing = [each for each in file.categories if each not in stored]
        missing = [each for each in stored if each not in file.categories]
        raise ConfigError(
            f"{file.path} has {len(file.categories)} categories, but the other splits, "
            f"in {path}, have {len(stored)}, and they differ in "
            f"{show((differing + missing)[0])}; give all splits the same, or another "
            "--name."
        )


def _check_problems(problems: list[str], path: Path) -> None:
    if problems:
        count = len(problems)
        shown = " ".join(problems[:5])
        more = f" (and {count - 5} more)" if count > 5 else ""
        raise ConfigError(
            f"{path} has {count} {'entry' if count == 1 else 'entries'} that cannot be "
            f"used: {shown}{more} Correct them, or leave them out by --allow-partial."
        )


def _create_records(
    file: CocoFile, folder: Path, rows: list[dict[str, int]], problems: list[str]
) -> Iterator[tuple[int, bytes]]:
    """Yields the records, and adds their rows of the index and what is left out."""
    bar = tqdm(file.images, "prepare", unit=" images", disable=None)
    for image in bar:
        try:
            record = _create_record(file, image, folder, problems)
        except (UnreadableImageError, OSError) as error:
            problems.append(f"{literal(image['file_name'])}: {error}.")
            continue
        rows.append(describe_record(record, image["id"]))
        yield len(rows), to_bytes(record)


def _create_record(
    file: CocoFile, image: dict[str, Any], folder: Path, problems: list[str]
) -> dict[str, np.ndarray]:
    name = image["file_name"]
    path = folder / name
    if not path.is_file():
        raise UnreadableImageError(f"there is no such file in {folder}")
    data = path.read_bytes()
    size = _find_size(data, image)
    numbers = {each["id"]: k for k, each in enumerate(file.categories)}
    annotations = []
    for entry in file.annotations.get(image["id"], []):
        try:
            label = numbers[entry["category_id"]]
            annotations.append(_read_annotation(entry, label, size))
        except AnnotationError as error:
            what = f"annotation {show(entry.get('id'))}"
            problems.append(f"{literal(name)}, {what}: {error}.")
    return create_record(data, name, size, annotations)


def _find_size(data: bytes, image: dict[str, Any]) -> tuple[int, int]:
    """Returns height and width of an image, upright.

    Raises:
        UnreadableImageError: If it is no image, or the annotations say otherwise.
    """
    header = open_image(data)
    size = upright_size(header)
    stated = tuple(image.get(key, size[i]) for i, key in enumerate(("height", "width")))
    if stated != size:
        turn = orientation(header)
        turned = f", turned upright by its EXIF orientation {turn}" if turn != 1 else ""
        raise UnreadableImageError(
            f"the annotations say {show(stated[1])}x{show(stated[0])} pixels, but the "
            f"file has {size[1]}x{size[0]}{turned}: annotate the image as it is shown"
        )
    return size


def _read_annotation(
    entry: dict[str, Any], label: int, size: tuple[int, int]
) -> Annotation:
    """Returns what an entry of the file says of an object.

    Raises:
        AnnotationError: If a part of it is impossible.
    """
    mask = decode_mask(entry.get("segmentation"), size)
    box = entry.get("bbox")
    if box is None:
        if mask is None or not mask.any():
            raise AnnotationError("it has neither a bbox nor a mask to find it by")
        box = find_mask_box(mask)
    x, y, width, height = box
    is_outside = x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0
    if is_outside and width and height:
        raise AnnotationError(
            f"its bbox {show(box)} lies outside of the image, which is "
            f"{size[1]}x{size[0]}"
        )
    area = entry.get("area")
    if area is None:
        area = width * height if mask is None else int(mask.sum())
    if not is_number(area):
        raise AnnotationError(f"its area is {show(area)}, which is no number")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise AnnotationError(f"its iscrowd is {show(crowd)}, neither 0 nor 1")
    return Annotation(box, label, float(area), mask, bool(crowd))
