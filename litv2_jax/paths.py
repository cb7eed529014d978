"""Paths that a user writes, and files that are written whole or not at all."""

import os
from pathlib import Path


def expand_path(text: str | Path) -> Path:
    """Returns an absolute path, with `~` and `~user` expanded.

    A home directory that does not exist is left as it is written, as shells do.
    """
    return Path(os.path.expanduser(text)).absolute()


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file, of which a reader sees the old or the new content."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
