"""Writes checkpoints, in the background or at once; the only file that knows Orbax."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written."""


def create_checkpointer(
    directory: Path, policy: Any, on_saved: Callable[[], None]
) -> Any:
    """Returns what saves numbered checkpoints in the background.

    What an interrupted save left in the directory is removed.

    Args:
        directory: One numbered folder per checkpoint; created if it is not there.
        policy: Its `should_preserve` says which checkpoints to keep.
        on_saved: Called, in a thread, when a checkpoint is complete.
    """
    context = ocp.Context()
    context.asynchronous.post_finalization_callback = on_saved
    return ocp.training.Checkpointer(
        str(directory.absolute()),
        context=context,
        preservation_policy=policy,
        cleanup_tmp_directories=True,
        # Else damaged metadata of any checkpoint would raise.
        lightweight_initialize=True,
    )


def write_arrays(path: Path, tree: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Writes a checkpoint and waits until it is complete."""
    ocp.save_checkpointables(str(path.absolute()), tree, custom_metadata=manifest)


@contextlib.contextmanager
def explain_failure(directory: Path) -> Iterator[None]:
    """Raises CheckpointError, with what to do, for what the file system raises."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # TensorStore raises any of these, with the system's error in its text.
        if not isinstance(error, OSError) and "os_error_code" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"A checkpoint could not be written to {directory}: {reason}. "
            "Those before it are whole: see that there is room and that the folder can "
            "be written to, and start the same command again."
        ) from error
