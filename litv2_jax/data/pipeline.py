"""Shuffles, shares out among processes, transforms and batches, all by Grain.

What a record becomes depends on the seed, the epoch and its place in the epoch alone:
not on the number of processes or workers, nor on where the run was resumed.
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from litv2_jax.settings import ConfigError

Batch = Mapping[str, np.ndarray]


def train_batches(
    source: grain.sources.RandomAccessDataSource,
    transform: grain.transforms.RandomMap,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_workers: int,
    process_index: int,
    process_count: int,
) -> grain.IterDataset:
    """Returns endless batches: each epoch in a new order, less an incomplete batch.

    Args:
        source: Records at random.
        transform: From a record and a random generator to arrays.
        batch_size: Records of all processes together.
        seed: Of the order and of the transform.
        start_step: Batches that have been used already.
        num_workers: Processes that load; 0 loads in threads.
        process_index: Which part of each batch to return.
        process_count: Into how many parts a batch is split.

    Raises:
        ConfigError: If there are fewer records than a batch has.
    """
    if len(source) < batch_size:
        raise ConfigError(
            f"config.batch_size is {batch_size}, more than the {len(source)} training "
            "examples there are."
        )
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().random_map(transform)
    dataset = _PartOfBatches(dataset, batch_size, process_index, process_count)
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True).repeat()
    return _read(dataset[start_step:], num_workers)


def eval_batches(
    source: grain.sources.RandomAccessDataSource,
    transform: grain.transforms.Map,
    *,
    batch_size: int,
    num_workers: int,
    process_index: int,
    process_count: int,
) -> grain.IterDataset:
    """Returns every record once, in order, in batches filled up with invalid records.

    A boolean array `valid` [batch] tells which records count. The other arguments are
    those of `train_batches`.
    """
    padded = _Padded(source, batch_size)
    dataset = grain.MapDataset.source(padded).map(_ValidOnly(transform))
    dataset = _PartOfBatches(dataset, batch_size, process_index, process_count)
    return _read(dataset.batch(batch_size // process_count), num_workers)


class _PartOfBatches(grain.MapDataset):
    """The records that one process contributes to the batches, whole batches only.

    The first process has the first rows of each batch, and so on, so that all of them
    together have the batches that one process alone would have, in the same order.
    """

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, index: int, count: int
    ):
        super().__init__(parent)
        self._batch_size = batch_size
        self._rows = batch_size // count
        self._first = index * self._rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._rows

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, index = divmod(index, len(self))
        batch, row = divmod(index, self._rows)
        start = epoch * len(self._parent) + batch * self._batch_size
        return self._parent[start + self._first + row]


class _Padded:
    """A source filled up to whole batches by its first record, with `valid`."""

    def __init__(self, source: grain.sources.RandomAccessDataSource, batch_size: int):
        self._source = source
        self._length = -(-len(source) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        valid = index < len(self._source)
        return self._source[index if valid else 0], valid


class _ValidOnly(grain.transforms.Map):
    """Applies a transform to the record of `_Padded` and keeps its `valid`."""

    def __init__(self, transform: grain.transforms.Map):
        self._transform = transform

    def map(self, element: tuple[Any, bool]) -> dict[str, Any]:
        record, valid = element
        arrays: Any = self._transform.map(record)
        return {**arrays, "valid": np.bool_(valid)}


def _read(dataset: grain.MapDataset, num_workers: int) -> grain.IterDataset:
    """Loads ahead of the reader; grain's default would keep 500 batches in memory."""
    # Workers load whole batches, and so do threads: a few of either are enough.
    threads = 2 if num_workers else min(4, os.cpu_count() or 1)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    )
    if not num_workers:
        return batches
    _parse_flags()
    return batches.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=num_workers),
        worker_init_fn=_follow_parent,
    )


def _follow_parent(worker_index: int, worker_count: int) -> None:
    """Prepares a worker process, which ends when its parent does, killed or not."""
    _parse_flags()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _parse_flags() -> None:
    """Lets grain read its flags where no program has parsed any, as in a worker."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
