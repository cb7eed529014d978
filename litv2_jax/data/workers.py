"""Worker processes that load data: how many, and how they begin and end."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags

from litv2_jax.data.shared_memory import has_shared_memory
from litv2_jax.data.sources.open_files import allow_many_open_files

# Value of `num_workers`: as many as the cores and a quarter of the free memory allow.
CHOOSE_WORKERS = -1
_SHARE_OF_MEMORY = 0.25

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def count_pieces(batch_size: int, num_workers: int) -> int:
    """Returns the number of equal pieces into which workers split a batch.

    One for each worker, or the next smaller number that divides the batch.

    Args:
        batch_size: Rows of a batch, of this process.
        num_workers: Processes that load; 0 for threads, which load whole batches.
    """
    most = min(batch_size, max(num_workers, 1))
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)


def choose_num_workers(rows: grain.MapDataset, batch_size: int) -> int:
    """Returns Grain's choice for this machine, or fewer if memory is short.

    Shared memory counts as well; 0 stands for threads. It loads a few rows to measure
    their size, and counts a complete batch for each worker.

    Args:
        rows: Of the batches to load.
        batch_size: Rows of a batch, of this process.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    config = grain.experimental.pick_performance_config(
        rows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)),
        ram_budget_mb=_SHARE_OF_MEMORY * free / batch_size,  # pyright: ignore
        max_workers=max(1, (os.cpu_count() or 1) - 1),
        max_buffer_size=1,
        samples_to_check=min(5, len(rows)),
    )
    options: Any = config.multiprocessing_options
    return next(
        workers
        for workers in range(options.num_workers, -1, -1)
        if has_shared_memory(
            rows[0], batch_size // count_pieces(batch_size, workers), workers
        )
    )


class StartWorkers(grain.IterDataset):
    """The same elements, from workers that ignore the signals that stop a run.

    Ctrl-C in a terminal and most schedulers send their signal to the whole process
    group. The workers must continue while the run saves, and then end with it.
    """

    def __iter__(self) -> grain.DatasetIterator:
        with _signals_blocked():
            return _StartWorkersIterator(iter(self._parent))


class _StartWorkersIterator(grain.DatasetIterator):
    def __init__(self, parent: grain.DatasetIterator):
        super().__init__(parent)
        self._has_started = False

    def __next__(self) -> Any:
        if self._has_started:
            return next(self._parent)
        # Grain starts its workers now. Processes inherit which signals are blocked, so
        # that no signal can ever reach a worker.
        with _signals_blocked():
            element = next(self._parent)
        self._has_started = True
        return element

    def get_state(self) -> Any:
        return self._parent.get_state()

    def set_state(self, state: Any) -> None:
        self._parent.set_state(state)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    # Starting Python's resource tracker unblocks them: it must be running before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(worker_index: int, worker_count: int) -> None:
    """Prepares a worker process, which ends when its parent does, killed or not."""
    parse_grain_flags()
    allow_many_open_files()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parse_grain_flags() -> None:
    """Lets Grain read its flags if the program has parsed none, as in a worker."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
