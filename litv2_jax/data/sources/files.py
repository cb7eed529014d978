"""Lists the files of a data set on disk."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from litv2_jax.settings import ConfigError
from litv2_jax.text import literal, shorten

# Folders that programs leave behind, beside those that begin with a dot.
_LEFTOVERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


class PackedNames:
    """Names of files in one byte string; Python's own would take ten times the memory.

    This is what is sent to worker processes.
    """

    def __init__(self, names: Iterable[str]):
        """Packs the names, which may be bytes that are not UTF-8."""
        encoded = [os.fsencode(name) for name in names]
        self._names = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"There is no record {index} among {len(self)}.")
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._names[start : self._ends[index]])


def find_folder(folder: Path) -> Path:
    """Returns the folder if it exists.

    Raises:
        ConfigError: If it does not; the message names the folders beside it.
    """
    if not folder.is_dir():
        parent = folder.parent
        found = list_folders(parent) if parent.is_dir() else []
        there = (
            f"{parent} has {shorten(found, limit=10)}" if found else "nothing near it"
        )
        raise ConfigError(f"There is no folder {folder}; {there}.")
    return folder


def list_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, in order, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not is_hidden(entry.name) and _is_folder(entry)
        )


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Returns the files below a folder, relative to it, folder by folder in order.

    Hidden files and folders are skipped. Links are followed, unless they lead to a
    folder that contains them. A broken link is listed, so that its record counts as
    unreadable.

    Args:
        folder: Where to look.
        suffixes: Of the files to list, in lower case; those of files may have any case.

    Raises:
        OSError: If a folder cannot be read.
    """
    around = {*folder.absolute().parents, *folder.resolve().parents}
    files = dict(_walk(folder, "", {_identity(path) for path in around}, suffixes))
    return [name for relative in sorted(files) for name in sorted(files[relative])]


def is_hidden(name: str) -> bool:
    """Returns whether a name marks a file or folder as no part of a data set."""
    return name.startswith(".") or name in _LEFTOVERS


def _walk(
    root: Path,
    relative: str,
    around: set[tuple[int, int]],
    suffixes: tuple[str, ...],
) -> Iterator[tuple[str, list[str]]]:
    """Yields a folder and its files, then the same of each folder in it.

    Args:
        root: Folder that names are relative to.
        relative: The folder, such as "" for the root itself.
        around: Identities of the folders that contain it.
        suffixes: As in `list_files`.
    """
    identity = _identity(root / relative)
    if identity in around:
        logging.warning(
            "%s is passed over: it is a link to a folder that it is in.",
            literal(str(root / relative)),
        )
        return
    files, folders = [], []
    with os.scandir(root / relative) as entries:
        for entry in entries:
            name = os.path.join(relative, entry.name)
            if is_hidden(entry.name):
                continue
            if _is_folder(entry):
                folders.append(name)
            elif entry.name.lower().endswith(suffixes) and _is_file(entry):
                files.append(name)
    yield relative, files
    for name in folders:
        yield from _walk(root, name, {*around, identity}, suffixes)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    """Returns whether it is a folder, or a link to one."""
    # For a link to itself, the entry's own method raises.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry) -> bool:
    """Returns whether it is a file, a link to one, or a broken link."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
