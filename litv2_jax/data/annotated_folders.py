"""Trees of images with an annotation for each, as ADE20K and Cityscapes are published.

`images/SPLIT/**` has the images, and `annotations/SPLIT/**`, under the same names but
for the ending, PNG files with the class of each pixel.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError

ADE20K_CLASSES = Path(__file__).with_name("ade20k_classes.txt")

_IMAGES = (".jpg", ".jpeg", ".png")
_ANNOTATIONS = (".png",)


class AnnotatedFolderSource:
    """The files of one split, ordered by name: `image` and `annotation`, both bytes.

    As in `FolderSource`, their list is sent to other processes as one string.
    """

    def __init__(self, split: str, data_dir: str):
        """Lists the files.

        Args:
            split: Folder of `images` and of `annotations`, such as `training`.
            data_dir: Where these two are, and perhaps `classes.txt`, with the name of a
                class in each line; without it they are those of ADE20K.

        Raises:
            ConfigError: If a folder is not there, it has no images, or an image or an
                annotation lacks the other.
        """
        if not data_dir:
            raise ConfigError(
                "config.data.data_dir is empty, but config.data.name is folder: give "
                "the folder that has images and annotations."
            )
        self._split = split
        self._root = Path(data_dir).expanduser()
        names = [os.fsencode(name) for name in list_annotated(self._root, split)]
        self._names = b"".join(names)
        self._name_ends = np.cumsum([len(name) for name in names])
        classes = self._root / "classes.txt"
        self.class_names = read_class_names(
            classes if classes.exists() else ADE20K_CLASSES
        )

    def __len__(self) -> int:
        return len(self._name_ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._name(index)
        try:
            return {
                "image": image_path(self._root, self._split, name).read_bytes(),
                "annotation": annotation_path(
                    self._root, self._split, name
                ).read_bytes(),
            }
        except OSError as error:
            raise UnreadableImageError(
                f"{error.filename}: {error.strerror or error}"
            ) from error

    def where(self, index: int) -> str:
        """Returns what to call a record in front of a person."""
        path = image_path(self._root, self._split, self._name(index))
        return f"folder, split {self._split}, record {index} ({path})"

    def _name(self, index: int) -> str:
        """Returns the name of an image, relative to the folder of the split."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no record {index} among {len(self)}.")
        start = self._name_ends[index - 1] if index else 0
        return os.fsdecode(self._names[start : self._name_ends[index]])


def image_path(root: Path, split: str, name: str) -> Path:
    """Returns where the image of a name from `list_annotated` is."""
    return root / "images" / split / name


def annotation_path(root: Path, split: str, name: str) -> Path:
    """Returns where the annotation of an image is."""
    return (root / "annotations" / split / name).with_suffix(".png")


def list_annotated(root: Path, split: str) -> list[str]:
    """Returns the names of the images of a split, relative to its folder, in order.

    Raises:
        ConfigError: If a folder is not there, it has no images, or an image or an
            annotation lacks the other.
    """
    images_folder, annotations_folder = (
        root / kind / split for kind in ("images", "annotations")
    )
    images = _list_files(images_folder, _IMAGES)
    annotations = _list_files(annotations_folder, _ANNOTATIONS)
    if not images:
        raise ConfigError(f"{images_folder} has no images ({', '.join(_IMAGES)}).")
    _check_partners("images", images, images_folder, "annotation", annotations)
    _check_partners("annotations", annotations, annotations_folder, "image", images)
    return images


def read_class_names(path: Path) -> list[str]:
    """Returns the names of classes in a file, one in each line.

    Raises:
        ConfigError: If there are none, or a line is empty.
    """
    names = [line.strip() for line in path.read_text().splitlines()]
    if not all(names) or not names:
        raise ConfigError(
            f"{path} must have the name of a class in each line; line "
            f"{names.index('') + 1 if names else 1} is empty."
        )
    return names


def _check_partners(
    kind: str, names: list[str], folder: Path, other: str, others: list[str]
) -> None:
    """Raises ConfigError if the others lack the stem of a name."""
    stems = {os.path.splitext(name)[0] for name in others}
    bare = [name for name in names if os.path.splitext(name)[0] not in stems]
    if bare:
        raise ConfigError(
            f"{len(bare)} of {len(names)} {kind} in {folder} have no {other} of the "
            f"same name, such as {bare[0]}; add what is missing, or remove these."
        )


def _list_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Returns the files below a folder, relative to it, sorted by name."""
    if not folder.is_dir():
        parent = folder.parent
        there = (
            sorted(path.name for path in parent.iterdir()) if parent.is_dir() else ()
        )
        found = f"{parent} has {', '.join(there[:10])}" if there else "nothing near it"
        raise ConfigError(f"There is no folder {folder}; {found}.")
    names = []
    for directory, _, files in os.walk(folder, followlinks=True):
        relative = os.path.relpath(directory, folder)
        names += [
            os.path.normpath(os.path.join(relative, name))
            for name in files
            if name.lower().endswith(suffixes)
        ]
    return sorted(names)
