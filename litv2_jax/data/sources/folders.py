"""Trees of image files with a folder per class, as torchvision's ImageFolder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from litv2_jax.class_names import check_distinct
from litv2_jax.data.sources.files import (
    PackedNames,
    find_folder,
    list_files,
    list_folders,
)
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from litv2_jax.text import compose, literal, shorten

# Those of torchvision, in lower case.
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)


class FolderSource:
    """The files `data_dir/split/class/**` in torchvision's order: `image`, `label`.

    Classes are numbered by name. Hidden files and folders, whose names begin with a
    dot, are skipped, unlike in torchvision.
    """

    def __init__(
        self,
        split: str,
        data_dir: str,
        class_names: Sequence[str] | None = None,
        *,
        allow_empty: bool = False,
    ):
        """Lists the files.

        Args:
            split: Folder with a folder for each class, such as `train`.
            data_dir: Folder of the split.
            class_names: The classes, if known: a split to evaluate on may lack some of
                those that a model was trained on, but have no others. By default, every
                folder is a class.
            allow_empty: Whether a class may have no images.

        Raises:
            ConfigError: If it does not exist, has no images or an unknown class, or a
                class lacks images although it must have some.
        """
        self._split = split
        self._root = find_split(split, data_dir)
        folders = {compose(name): name for name in list_folders(self._root)}
        _check_folders(self._root, folders, class_names)
        self.class_names = list(sorted(folders) if class_names is None else class_names)
        self._folders = [folders.get(name, name) for name in self.class_names]
        names, counts = [], []
        # Shows progress only if this is slow.
        for name, folder in zip(
            tqdm(
                self.class_names, f"list {split}", unit=" classes", delay=2, leave=False
            ),
            self._folders,
            strict=True,
        ):
            listed = (
                list_files(self._root / folder, SUFFIXES) if name in folders else []
            )
            names += listed
            counts.append(len(listed))
        empty = [k for k, count in enumerate(counts) if not count]
        if not names or (empty and class_names is None and not allow_empty):
            raise ConfigError(
                f"{self._root / self._folders[empty[0]]} has no images "
                f"({', '.join(SUFFIXES)}), but every folder there is a class; remove "
                "it or fill it."
            )
        self._names = PackedNames(names)
        self._class_ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self._locate(index)
        try:
            return {"image": path.read_bytes(), "label": label}
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        """Returns the class and the file of a record, such as `cat/1.jpg`."""
        return self._locate(index)[0].relative_to(self._root).as_posix()

    def label(self, index: int) -> int:
        """Returns the label of a record."""
        return self._locate(index)[1]

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        path = literal(str(self._locate(index)[0]))
        return f"folder, split {self._split}, record {index} ({path})"

    def _locate(self, index: int) -> tuple[Path, int]:
        """Returns the path and the label of a record."""
        name = self._names[index]
        label = int(np.searchsorted(self._class_ends, index, side="right"))
        return self._root / self._folders[label] / name, label


def find_split(split: str, data_dir: str) -> Path:
    """Returns the folder of a split, or raises ConfigError if there is none."""
    if not data_dir:
        raise ConfigError(
            "config.data.data_dir is empty, but config.data.name is folder: give the "
            "folder that has the splits."
        )
    return find_folder(Path(data_dir).expanduser() / split)


def _check_folders(
    root: Path, folders: dict[str, str], class_names: Sequence[str] | None
) -> None:
    """Raises ConfigError unless the folders can be classes.

    Args:
        root: Folder that contains them.
        folders: Their names, by the composed form of these.
        class_names: As in `FolderSource`.
    """
    if not folders:
        raise ConfigError(
            f"{root} has no folders; there must be one for each class, with its images."
        )
    check_distinct([compose(name) for name in list_folders(root)], str(root))
    other = [name for name in folders if class_names and name not in class_names]
    if other:
        raise ConfigError(
            f"{root} has {len(other)} folders that are no classes of the training "
            f"split: {shorten(other)}; its classes are {shorten(class_names or ())}. "
            "Give both splits the same names, or remove these folders."
        )
