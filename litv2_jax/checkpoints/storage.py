"""Writes checkpoints, in the background or at once; the only file that knows Orbax."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

# Part of the names of folders that are being written or deleted.
_INCOMPLETE = ".orbax-checkpoint-tmp"


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written."""


class BackgroundSave:
    """A checkpoint that is being written; every process has to take part.

    Its folder appears once it is complete.
    """

    def __init__(self, path: Path, tree: dict[str, Any], manifest: dict[str, Any]):
        """Begins to write; the arrays may be overwritten as soon as this returns.

        Args:
            path: Folder to create; an existing one is replaced.
            tree: Arrays, by the parts of the checkpoint.
            manifest: From `create_manifest`; that of the first process is written.
        """
        self._response = ocp.save_checkpointables_async(
            str(path.absolute()), tree, overwrite=True, custom_metadata=manifest
        )

    def is_complete(self) -> bool:
        """Returns whether it has been written; raises the error if that failed."""
        try:
            self._response.result(timeout=0)
        except TimeoutError:
            return False
        return True

    def wait(self) -> None:
        """Waits until it has been written; raises the error if that failed."""
        self._response.result()


def write_arrays(path: Path, tree: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Writes a checkpoint and waits until it is complete."""
    ocp.save_checkpointables(str(path.absolute()), tree, custom_metadata=manifest)


def delete_checkpoint(path: Path) -> None:
    """Deletes a checkpoint; if interrupted, what is left does not count as one."""
    remains = path.with_name(f"{path.name}{_INCOMPLETE}-deleted")
    path.rename(remains)
    shutil.rmtree(remains)


def delete_incomplete(directory: Path) -> None:
    """Deletes the remains of checkpoints whose writing or deletion was interrupted."""
    for path in directory.glob(f"*{_INCOMPLETE}*"):
        shutil.rmtree(path)


@contextlib.contextmanager
def explain_failure(directory: Path) -> Iterator[None]:
    """Turns errors of the file system into CheckpointError, which says what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # TensorStore raises any of these, with the system's error in its text.
        if not isinstance(error, OSError) and "os_error_code" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"A checkpoint could not be written to {directory}: {reason}. Those before "
            "it are whole: see that there is room and that the folder can be written "
            "to, and start the same command again."
        ) from error
