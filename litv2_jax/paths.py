"""Expands the paths that a user writes."""

import os
from pathlib import Path


def expand_path(text: str | Path) -> Path:
    """Returns an absolute path, with `~` and `~user` expanded.

    A home directory that does not exist is left as it is written, as shells do.
    """
    return Path(os.path.expanduser(text)).absolute()
