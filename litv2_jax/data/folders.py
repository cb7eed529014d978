"""Trees of image files with a folder per class, as torchvision's ImageFolder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError

# Those of torchvision, in lower case.
_SUFFIXES = (
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

    Classes are numbered by name. The list is made anew each time, and only once sent to
    other processes, as one string: a million Python strings would weigh ten times that.
    """

    def __init__(self, split: str, data_dir: str):
        """Lists the files.

        Args:
            split: Folder with a folder for each class, such as `train`.
            data_dir: Where it is.

        Raises:
            ConfigError: If it is not there, or a class has no images.
        """
        self._split = split
        self._root = _find_split(split, data_dir)
        self.class_names: list[str] = sorted(
            entry.name for entry in os.scandir(self._root) if entry.is_dir()
        )
        if not self.class_names:
            raise ConfigError(
                f"{self._root} has no folders; there must be one for each class, with "
                "its images."
            )
        names, counts = [], []
        # Shown only where it takes its time.
        for class_name in tqdm(
            self.class_names, f"list {split}", unit=" classes", delay=2, leave=False
        ):
            listed = list(_list_images(self._root / class_name))
            names += [os.fsencode(name) for name in listed]
            counts.append(len(listed))
        if 0 in counts:
            empty = self.class_names[counts.index(0)]
            raise ConfigError(
                f"{self._root / empty} has no images ({', '.join(_SUFFIXES)}), but "
                "every folder there is a class; remove it or fill it."
            )
        self._names = b"".join(names)
        self._name_ends = np.cumsum([len(name) for name in names])
        self._class_ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self._name_ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self._locate(index)
        try:
            return {"image": path.read_bytes(), "label": label}
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error

    def where(self, index: int) -> str:
        """Returns what to call a record in front of a person."""
        return f"folder, split {self._split}, record {index} ({self._locate(index)[0]})"

    def _locate(self, index: int) -> tuple[Path, int]:
        """Returns the path and the label of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no record {index} among {len(self)}.")
        label = int(np.searchsorted(self._class_ends, index, side="right"))
        start = self._name_ends[index - 1] if index else 0
        name = os.fsdecode(self._names[start : self._name_ends[index]])
        return self._root / self.class_names[label] / name, label


def _find_split(split: str, data_dir: str) -> Path:
    if not data_dir:
        raise ConfigError(
            "config.data.data_dir is empty, but config.data.name is folder: give the "
            "folder that has the splits."
        )
    root = Path(data_dir).expanduser() / split
    if not root.is_dir():
        folders = root.parent.iterdir() if root.parent.is_dir() else ()
        found = sorted(path.name for path in folders if path.is_dir())
        there = (
            f"{root.parent} has {', '.join(found[:10])}" if found else "nothing near it"
        )
        raise ConfigError(f"There is no folder {root}; {there}.")
    return root


def _list_images(folder: Path) -> Iterator[str]:
    """Yields the images below a folder, relative to it, folder by folder in order."""
    folders = []
    pending = [""]
    files: dict[str, list[str]] = {}
    while pending:
        relative = pending.pop()
        folders.append(relative)
        files[relative] = []
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                name = os.path.join(relative, entry.name)
                if entry.name.lower().endswith(_SUFFIXES):
                    files[relative].append(name)
                elif entry.is_dir():
                    pending.append(name)
    for relative in sorted(folders):
        yield from sorted(files[relative])
