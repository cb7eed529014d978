"""Names of classes: lists of published data sets, files of users, and their comparison.

A checkpoint names its classes by a list, which is empty if they are not known, or by
`imagenet`, `ade20k` or `coco`.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from litv2_jax.settings import ConfigError
from litv2_jax.text import compose, literal, shorten

ClassNames = Sequence[str] | str


def read_class_names(path: Path) -> list[str]:
    """Returns the names of classes in a file, one in each line.

    Raises:
        ConfigError: If the file has no names, an empty or a repeated line, or is not
            UTF-8.
    """
    try:
        # Some editors begin a file with a mark of its encoding.
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not in UTF-8 ({error}); save it as that."
        ) from None
    names = [compose(line.strip()) for line in lines]
    if not all(names):
        raise ConfigError(
            f"{path} must have the name of a class in each line; line "
            f"{names.index('') + 1} is empty."
        )
    check_distinct(names, str(path))
    return names


def check_distinct(names: Sequence[str], place: str) -> None:
    """Raises ConfigError if two classes have the same name.

    Args:
        names: Names of the classes.
        place: What to call their source in the error.
    """
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{place} has the class {literal(name)} {count} times; give each class a "
            "name of its own."
        )


@functools.cache
def imagenet_names() -> dict[str, str]:
    """Returns the name of each class of ImageNet by its number in WordNet, in order."""
    return dict(line.split(" ", 1) for line in _read_lines("imagenet_classes.txt"))


@functools.cache
def ade20k_names() -> list[str]:
    """Returns the names of ADE20K's 150 classes, in order."""
    return _read_lines("ade20k_classes.txt")


@functools.cache
def coco_names() -> list[str]:
    """Returns the names of COCO's 80 classes, in order."""
    return _read_lines("coco_classes.txt")


def display_names(names: ClassNames) -> list[str]:
    """Returns the names of a checkpoint's classes for people to read.

    Args:
        names: As the checkpoint has them; WordNet numbers, by which TFDS names the
            classes of ImageNet, are replaced by their synonyms.
    """
    if names == "imagenet":
        return list(imagenet_names().values())
    if names == "ade20k":
        return list(ade20k_names())
    if names == "coco":
        return list(coco_names())
    return [compose(imagenet_names().get(name, name)) for name in names]


def short_name(name: str) -> str:
    """Returns the name to draw: the first one of the synonyms that ImageNet lists."""
    return name.split(",")[0] if name in _imagenet_synonyms() else name


def match_classes(
    stored: ClassNames, expected: ClassNames, place: str
) -> list[int] | None:
    """Returns which class of a checkpoint each class of the data is.

    Args:
        stored: Names in the checkpoint.
        expected: Names in the data, in their order.
        place: What to call the checkpoint in an error.

    Returns:
        For each class of the data, its number in the checkpoint; None if the order is
        the same, or if either does not name its classes.

    Raises:
        ConfigError: If one has a class that the other lacks.
    """
    if not stored or not expected:
        return None
    old_names, new_names = display_names(stored), display_names(expected)
    if old_names == new_names:
        return None
    if sorted(old_names) != sorted(new_names):
        raise ConfigError(describe_difference(old_names, new_names, place))
    number = {name: k for k, name in enumerate(old_names)}
    return [number[name] for name in new_names]


def describe_difference(
    stored: Sequence[str], expected: Sequence[str], place: str
) -> str:
    """Returns a sentence on how the classes of a checkpoint differ from the data's.

    Args:
        stored: Names in the checkpoint.
        expected: Names in the data.
        place: What to call the checkpoint.
    """
    only_stored, only_expected = (
        [name for name in names if name not in set(others)]
        for names, others in ((stored, expected), (expected, stored))
    )
    parts = [
        f"{place} has {len(stored)} classes ({shorten(stored)}), but the data have "
        f"{len(expected)} ({shorten(expected)})"
    ]
    if only_stored:
        parts.append(f"only in the checkpoint: {shorten(only_stored)}")
    if only_expected:
        parts.append(f"only in the data: {shorten(only_expected)}")
    if not only_stored and not only_expected:
        parts.append("their order differs")
    return "; ".join(parts) + ". Use data with the classes of the checkpoint."


@functools.cache
def _imagenet_synonyms() -> frozenset[str]:
    return frozenset(imagenet_names().values())


def _read_lines(name: str) -> list[str]:
    table = resources.files("litv2_jax").joinpath("data", name)
    return table.read_text(encoding="utf-8").splitlines()
