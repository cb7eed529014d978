"""Trees of images with an annotation for each, as ADE20K and Cityscapes are published.

`images/SPLIT/**` has the images, and `annotations/SPLIT/**`, under the same names but
for the ending, PNG files with the class of each pixel.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from litv2_jax.class_names import ade20k_names, read_class_names
from litv2_jax.data.sources.files import PackedNames, find_folder, list_files
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from litv2_jax.text import compose, literal

_IMAGES = (".jpg", ".jpeg", ".png")
_ANNOTATIONS = (".png",)

# The published tree of ADE20K has this list beside its folders.
_ADE20K_LIST = "objectInfo150.txt"


class AnnotatedFolderSource:
    """The files of one split, ordered by name: `image` and `annotation`, both bytes."""

    def __init__(self, split: str, data_dir: str):
        """Lists the files.

        Args:
            split: Folder of `images` and of `annotations`, such as `training`.
            data_dir: Folder of these two and of `classes.txt`, with the name of a class
                in each line; the published tree of ADE20K needs none.

        Raises:
            ConfigError: If a folder or the names of the classes are missing, a folder
                has no images, or an image or an annotation lacks the other.
        """
        if not data_dir:
            raise ConfigError(
                "config.data.data_dir is empty, but config.data.name is folder: give "
                "the folder that has images and annotations."
            )
        self._split = split
        self._root = Path(data_dir).expanduser()
        pairs = list_annotated(self._root, split)
        self._images = PackedNames(image for image, _ in pairs)
        self._annotations = PackedNames(annotation for _, annotation in pairs)
        self.class_names = _find_class_names(self._root)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = image_path(self._root, self._split, self._images[index])
        annotation = annotation_path(self._root, self._split, self._annotations[index])
        try:
            return {
                "image": image.read_bytes(),
                "annotation": annotation.read_bytes(),
            }
        except OSError as error:
            raise UnreadableImageError(
                f"{literal(str(error.filename))}: {error.strerror or error}"
            ) from error

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        path = image_path(self._root, self._split, self._images[index])
        return f"folder, split {self._split}, record {index} ({literal(str(path))})"


def image_path(root: Path, split: str, name: str) -> Path:
    """Returns the path of an image from `list_annotated`."""
    return root / "images" / split / name


def annotation_path(root: Path, split: str, name: str) -> Path:
    """Returns the path of an annotation from `list_annotated`."""
    return root / "annotations" / split / name


def list_annotated(root: Path, split: str) -> list[tuple[str, str]]:
    """Returns each image of a split and its annotation, in order of the images' names.

    They belong together if their names are equal except for the ending, in either
    Unicode form.

    Args:
        root: Folder that has `images` and `annotations`.
        split: Folder in each of these, which the names are relative to.

    Raises:
        ConfigError: If a folder is missing or has no images, or if an image or an
            annotation lacks the other or has several.
    """
    images_folder, annotations_folder = (
        find_folder(root / kind / split) for kind in ("images", "annotations")
    )
    images = _by_stem(images_folder, list_files(images_folder, _IMAGES))
    annotations = _by_stem(
        annotations_folder, list_files(annotations_folder, _ANNOTATIONS)
    )
    if not images:
        raise ConfigError(f"{images_folder} has no images ({', '.join(_IMAGES)}).")
    bare = [name for stem, name in images.items() if stem not in annotations]
    _check_formats(annotations_folder, bare)
    _check_partners("images", images_folder, bare, len(images), "annotation")
    bare = [name for stem, name in annotations.items() if stem not in images]
    _check_partners("annotations", annotations_folder, bare, len(annotations), "image")
    return sorted((name, annotations[stem]) for stem, name in images.items())


def _find_class_names(root: Path) -> list[str]:
    path = root / "classes.txt"
    if path.exists():
        return read_class_names(path)
    if (root / _ADE20K_LIST).exists():
        return list(ade20k_names())
    raise ConfigError(
        f"{root} has no classes.txt: write the name of a class in each line, the first "
        "one being that of the smallest value that is a class in the annotations."
    )


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the names by their stems, which images and annotations have in common.

    Raises:
        ConfigError: If two have the same stem.
    """
    found: dict[str, str] = {}
    for name in names:
        stem = compose(os.path.splitext(name)[0])
        if stem in found:
            raise ConfigError(
                f"{folder} has {literal(found[stem])!r} and {literal(name)!r}, whose "
                "names differ in the ending or the encoding alone, so that it is not "
                "clear which annotation is whose; rename or remove one."
            )
        found[stem] = name
    return found


def _check_formats(folder: Path, bare: list[str]) -> None:
    """Raises ConfigError if images without annotation have one in another format."""
    stems = {compose(os.path.splitext(name)[0]) for name in bare}
    suffixes = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
    for name in list_files(folder, suffixes) if bare else ():
        if compose(os.path.splitext(name)[0]) in stems:
            raise ConfigError(
                f"{folder} has {literal(name)}, but annotations have to be PNG files, "
                "in which each pixel keeps its value; JPEG changes them. Save the "
                "annotations as PNG, from their source."
            )


def _check_partners(
    kind: str, folder: Path, bare: list[str], count: int, other: str
) -> None:
    """Raises ConfigError if there are files without their partner."""
    if bare:
        raise ConfigError(
            f"{len(bare)} of {count} {kind} in {folder} have no {other} of the "
            f"same name, such as {literal(bare[0])}; add what is missing, or remove "
            "these."
        )
