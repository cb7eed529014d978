"""Checks that the machine has the shared memory that worker processes need."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from litv2_jax.settings import ConfigError

_FOLDER = Path("/dev/shm")

# Most elements that Grain keeps there, for each worker and beside these, counted with
# one to four workers and a slow reader.
_PER_WORKER, _IN_USE = 5, 2


def check_shared_memory(row: Any, rows_per_element: int, num_workers: int) -> None:
    """Raises ConfigError if workers would be killed for lack of shared memory.

    The system answers a write beyond it with a signal that ends the worker, without a
    reason. Containers have 64 MB by default.

    Args:
        row: One row of a batch: its arrays by name.
        rows_per_element: Rows that a worker hands over at a time.
        num_workers: Processes that load.
    """
    needed = _needed(row, rows_per_element, num_workers)
    if needed > _free():
        raise ConfigError(
            f"{_FOLDER} has {_megabytes(_free())} free, but {num_workers} worker "
            f"processes may keep {_megabytes(needed)} of batches there: make it larger "
            f"(docker run --shm-size={_gigabytes(needed)}g), or load in threads with "
            "--config.data.num_workers=0, or use fewer workers."
        )


def has_shared_memory(row: Any, rows_per_element: int, num_workers: int) -> bool:
    """Returns whether `check_shared_memory` passes for the same arguments."""
    return _needed(row, rows_per_element, num_workers) <= _free()


def _needed(row: Any, rows_per_element: int, num_workers: int) -> int:
    """Returns the bytes that workers may keep in shared memory."""
    if not num_workers:
        return 0
    size = rows_per_element * sum(np.asarray(array).nbytes for array in row.values())
    return (_PER_WORKER * num_workers + _IN_USE) * size


def _free() -> float:
    """Returns the free bytes of shared memory; infinite if it is not a folder."""
    return shutil.disk_usage(_FOLDER).free if _FOLDER.is_dir() else float("inf")


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MB"


def _gigabytes(size: int) -> int:
    """Returns how many gigabytes hold twice as much."""
    return -(-2 * size // 2**30)
