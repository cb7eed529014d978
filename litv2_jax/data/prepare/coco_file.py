"""Annotations in COCO's format, as COCO and many programs write them, checked."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litv2_jax.data.prepare.coco_masks import is_number
from litv2_jax.settings import ConfigError, show
from litv2_jax.text import literal

# Images and annotations of the published files.
_COUNTS = {
    "instances_train2017.json": (118_287, 860_001),
    "instances_val2017.json": (5_000, 36_781),
}


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """Annotations of a split.

    Attributes:
        path: Of the file.
        categories: `id` and `name` of each class, by ascending id.
        images: Those of the file.
        annotations: Those of each image by its id; there may be none of an image.
        problems: What cannot be used and was left out, a sentence each.
    """

    path: Path
    categories: list[dict[str, Any]]
    images: list[dict[str, Any]]
    annotations: Mapping[int, list[dict[str, Any]]]
    problems: list[str]

    def check_counts(self) -> None:
        """Raises ConfigError if a published file lacks images or annotations."""
        expected = _COUNTS.get(self.path.name)
        found = len(self.images), sum(map(len, self.annotations.values()))
        if expected and found != expected:
            raise ConfigError(
                f"{self.path} has {found[0]:,} images and {found[1]:,} annotations, "
                f"but COCO's has {expected[0]:,} and {expected[1]:,}; download it "
                "again, or add --allow-partial."
            )


def read_coco_file(path: Path) -> CocoFile:
    """Reads the annotations of a split; what is wrong with single ones is listed.

    Raises:
        ConfigError: If it is no such file, has no images, or its classes are not clear.
    """
    content = _read_json(path)
    images, annotations, categories = (
        _find_list(content, name, path, is_needed=name == "images")
        for name in ("images", "annotations", "categories")
    )
    if not images:
        raise ConfigError(f"{path} has no images; name a file that lists some.")
    used = {each.get("category_id") for each in annotations}
    classes = _choose_categories(categories, used, path)
    problems: list[str] = []
    kept = _check_images(images, problems)
    names = {image["id"]: image["file_name"] for image in kept}
    return CocoFile(
        path,
        classes,
        kept,
        _sort_annotations(annotations, names, classes, problems),
        problems,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}; see --annotations.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is not in COCO's format: it should have images, annotations and "
            "categories."
        )
    return content


def _find_list(
    content: dict[str, Any], name: str, path: Path, *, is_needed: bool
) -> list[dict[str, Any]]:
    """Returns a list of the file; test sets have no annotations."""
    found = content.get(name, None if is_needed else [])
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise ConfigError(
            f"{path} is not in COCO's format: {name} should be a list of objects, but "
            f"is {show(found)}."
        )
    return found


def _choose_categories(
    categories: list[dict[str, Any]], used: set[Any], path: Path
) -> list[dict[str, Any]]:
    """Returns the classes by ascending id, less those that only group the others.

    Roboflow writes such a group as a class of its own, which nothing is of.
    """
    groups = {each.get("supercategory") for each in categories}
    chosen = [
        {"id": each.get("id"), "name": each.get("name")}
        for each in categories
        if each.get("id") in used
        or each.get("supercategory") != "none"
        or each.get("name") not in groups
    ]
    for each in chosen:
        if not isinstance(each["id"], int) or not isinstance(each["name"], str):
            raise ConfigError(
                f"{path} has the category {show(each)}; each needs a whole number as "
                "id and a text as name."
            )
    for key in ("id", "name"):
        values = [each[key] for each in chosen]
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ConfigError(
                f"{path} has several categories with the {key} "
                f"{literal(str(twice[0]))}; give each one of its own."
            )
    if not chosen:
        raise ConfigError(f"{path} has no categories: list the classes there.")
    return sorted(chosen, key=lambda each: each["id"])


def _check_images(
    images: list[dict[str, Any]], problems: list[str]
) -> list[dict[str, Any]]:
    """Returns the images that have an id and a file of their own."""
    kept, ids, names = [], set(), set()
    for image in images:
        number, name = image.get("id"), image.get("file_name")
        if not isinstance(number, int) or not isinstance(name, str) or not name:
            problems.append(
                f"The image {show(image)} needs a whole number as id and a file_name."
            )
        elif number in ids or name in names:
            problems.append(
                f"{literal(name)} (image {number}) is listed twice, by its id or its "
                "file_name: keep one."
            )
        else:
            kept.append(image)
            ids.add(number)
            names.add(name)
    return kept


def _sort_annotations(
    annotations: list[dict[str, Any]],
    names: Mapping[int, str],
    categories: list[dict[str, Any]],
    problems: list[str],
) -> dict[int, list[dict[str, Any]]]:
    """Returns the annotations of each image that have a class and a box."""
    sorted_: dict[int, list[dict[str, Any]]] = defaultdict(list)
    known = {each["id"] for each in categories}
    for annotation in annotations:
        image = annotation.get("image_id")
        what = f"annotation {show(annotation.get('id'))}"
        if not isinstance(image, int) or image not in names:
            problems.append(
                f"{what.capitalize()} is of the image {show(image)}, which the file "
                "does not list: add the image, or remove the annotation."
            )
            continue
        where = f"{literal(names[image])}, {what}"
        category, box = annotation.get("category_id"), annotation.get("bbox")
        if category not in known:
            problems.append(
                f"{where}: its category_id is {show(category)}, but the categories are "
                f"{show(sorted(known))}: add it there, or correct it."
            )
        elif not _is_box(box) and not (box is None and annotation.get("segmentation")):
            problems.append(
                f"{where}: its bbox is {show(box)}; give x, y, width and height in "
                "pixels, the last two not negative."
            )
        else:
            sorted_[image].append(annotation)
    return sorted_


def _is_box(box: Any) -> bool:
    is_list = isinstance(box, list) and len(box) == 4
    return is_list and all(map(is_number, box)) and box[2] >= 0 and box[3] >= 0
