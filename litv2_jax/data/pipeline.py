"""Shuffles, shards over processes, transforms and batches records, all with Grain.

What a record becomes depends only on the seed, the epoch and its place in the epoch:
not on the number of processes or workers, nor on where the run was resumed. The next
record replaces one that is unreadable; see `unreadable.py`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from litv2_jax.data.shared_memory import check_shared_memory
from litv2_jax.data.sources.open_files import allow_many_open_files
from litv2_jax.data.unreadable import UnreadableRecords, read_readable
from litv2_jax.data.workers import (
    CHOOSE_WORKERS,
    StartWorkers,
    choose_num_workers,
    count_pieces,
    follow_parent,
    parse_grain_flags,
)
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
    unreadable: UnreadableRecords | None = None,
) -> grain.IterDataset:
    """Returns endless batches: each epoch in a new order, without its incomplete batch.

    Args:
        source: Records by index.
        transform: From a record and a random generator to arrays.
        batch_size: Records of all processes together.
        seed: Of the order and of the transform.
        start_step: Batches that have been used already.
        num_workers: Processes that load; 0 loads in threads, -1 lets Grain choose.
        process_index: Which part of each batch to return.
        process_count: Into how many parts a batch is split.
        unreadable: Counts the records that were replaced because they cannot be read;
            without it the first of them ends the run.

    Raises:
        ConfigError: If there are fewer records than the batch size; while iterating, if
            too many are unreadable.
    """
    if len(source) < batch_size:
        raise ConfigError(
            f"config.batch_size is {batch_size}, more than the {len(source)} training "
            "examples there are."
        )
    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    dataset = dataset.random_map(_Read(source, transform))
    batches = load_in_order(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
        start_batch=start_step,
        is_endless=True,
    )
    if unreadable is None:
        unreadable = UnreadableRecords(0)
    return unreadable.watch(
        batches,
        source,
        lambda record: transform.random_map(record, np.random.default_rng(0)),
    )


def eval_batches(
    source: grain.sources.RandomAccessDataSource,
    transform: grain.transforms.Map,
    *,
    batch_size: int,
    num_workers: int,
    process_index: int,
    process_count: int,
    unreadable: UnreadableRecords | None = None,
) -> grain.IterDataset:
    """Returns every record once, in order, the last batch padded with invalid records.

    A boolean array `valid` [B] tells which records count; unreadable ones do not. The
    arguments are those of `train_batches`.
    """
    padded_length = -(-len(source) // batch_size) * batch_size
    batches = load_in_order(
        grain.MapDataset.range(padded_length).map(_ReadIfValid(source, transform)),
        batch_size=batch_size,
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
    )
    if unreadable is None:
        unreadable = UnreadableRecords(0)
    return unreadable.watch(batches, source, transform.map)


def load_in_order(
    rows: grain.MapDataset,
    *,
    batch_size: int,
    num_workers: int,
    process_index: int,
    process_count: int,
    start_batch: int = 0,
    is_endless: bool = False,
) -> grain.IterDataset:
    """Returns the batches of rows that have their order already.

    Args:
        rows: A multiple of the batch size; of the same shapes within a batch.
        batch_size: Rows of all processes together.
        num_workers: Processes that load; 0 loads in threads, -1 lets Grain choose.
        process_index: Which part of each batch to return.
        process_count: Into how many parts a batch is split.
        start_batch: Batches that have been used already.
        is_endless: Whether to go on after the last row, with the rows of the next
            epoch; they are asked for by indices beyond the last.
    """
    part = _PartOfBatches(rows, batch_size, process_index, process_count)
    return _load(
        part,
        batch_size // process_count,
        num_workers,
        start_batch=start_batch,
        is_endless=is_endless,
    )


class _PartOfBatches(grain.MapDataset):
    """The shard of one process, of complete batches only.

    The first process has the first rows of each batch, and so on, so that all of them
    together have the batches that a single process would have, in the same order.
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


class _Read(grain.transforms.RandomMap):
    """From the index of a record to its arrays."""

    def __init__(
        self,
        source: grain.sources.RandomAccessDataSource,
        transform: grain.transforms.RandomMap,
    ):
        self._source = source
        self._transform = transform

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        arrays, _ = read_readable(
            self._source, element, lambda x: self._transform.random_map(x, rng)
        )
        return arrays


class _ReadIfValid(grain.transforms.Map):
    """From an index to arrays and `valid`; the first record pads after the last."""

    def __init__(
        self,
        source: grain.sources.RandomAccessDataSource,
        transform: grain.transforms.Map,
    ):
        self._source = source
        self._transform = transform

    def map(self, element: int) -> dict[str, Any]:
        is_record = element < len(self._source)
        arrays, is_itself = read_readable(
            self._source, element if is_record else 0, self._transform.map
        )
        return {**arrays, "valid": np.bool_(is_record and is_itself)}


def _load(
    rows: grain.MapDataset,
    batch_size: int,
    num_workers: int,
    *,
    start_batch: int = 0,
    is_endless: bool = False,
) -> grain.IterDataset:
    """Prefetches batches, from the given one on.

    Each worker loads pieces of a batch, so that all workers together hold only a few
    batches, however many workers there are.

    Args:
        rows: The rows of this process, in complete batches.
        batch_size: Rows of a batch, of this process.
        num_workers: Processes that load; 0 loads in threads, -1 lets Grain choose.
        start_batch: Batches that have been used already.
        is_endless: Whether to begin again after the last batch.
    """
    allow_many_open_files()
    if num_workers == CHOOSE_WORKERS:
        num_workers = choose_num_workers(rows, batch_size)
    pieces = count_pieces(batch_size, num_workers)
    dataset = rows.batch(batch_size // pieces)
    if is_endless:
        dataset = dataset.repeat()
    # Threads and workers load pieces of batches: a few are enough. Grain's default
    # would hold 500 of them in memory.
    threads, ahead = (2, 2) if num_workers else (min(4, os.cpu_count() or 1), 4)
    loaded = dataset[start_batch * pieces :].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    )
    if not num_workers:
        return loaded
    check_shared_memory(rows[0], batch_size // pieces, num_workers)
    parse_grain_flags()
    loaded = loaded.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=num_workers),
        worker_init_fn=follow_parent,
    )
    loaded = StartWorkers(loaded)
    return loaded.batch(pieces, batch_fn=_concatenate) if pieces > 1 else loaded


def _concatenate(pieces: Sequence[Batch]) -> Batch:
    names = pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}
