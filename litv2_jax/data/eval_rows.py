"""Evaluation in batches that were planned: which record is in which row, and loading.

Each batch has a shape, its bucket, for which a program is compiled.
"""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any

import grain
import numpy as np

from litv2_jax.data.pipeline import load_in_order
from litv2_jax.data.unreadable import UnreadableRecords, read_readable

EMPTY = -1  # In place of the number of a record.


@dataclasses.dataclass(frozen=True, eq=False)
class EvalPlan:
    """Which records make up which batch.

    Attributes:
        batch_size: Rows of a batch, of all processes together.
        buckets: What canvases a batch has, for each batch.
        records: int64 [number of batches * batch_size], the record in each row; -1 is
            an empty row.
    """

    batch_size: int
    buckets: tuple[Any, ...]
    records: np.ndarray

    @classmethod
    def fill(
        cls, records_of: Iterable[tuple[Any, list[int]]], batch_size: int
    ) -> "EvalPlan":
        """Returns the plan that has the records of one bucket after the other.

        Args:
            records_of: Buckets with their records, in order.
            batch_size: Rows of a batch.
        """
        buckets: list[Any] = []
        rows: list[int] = []
        for bucket, records in records_of:
            num_batches = -(-len(records) // batch_size)
            buckets += [bucket] * num_batches
            rows += records + [EMPTY] * (num_batches * batch_size - len(records))
        return cls(batch_size, tuple(buckets), np.array(rows, np.int64))

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.buckets)


class EvalRows(abc.ABC):
    """The rows of a plan, each followed by the empty one that may stand in for it.

    So an unreadable record is replaced by what has the shape of its batch, which the
    next record may not have.
    """

    def __init__(
        self,
        source: grain.sources.RandomAccessDataSource,
        plan: EvalPlan,
        transform: grain.transforms.Map,
    ):
        """Takes what the rows are made of; the plan is one of this source."""
        self._source = source
        self._plan = plan
        self._transform = transform

    def __len__(self) -> int:
        return 2 * len(self._plan.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, is_stand_in = divmod(index, 2)
        bucket = self._plan.buckets[row // self._plan.batch_size]
        record = int(self._plan.records[row])
        arrays = None
        if not is_stand_in and record != EMPTY:
            arrays = self._transform.map(self._source[record])
        return self._fill(bucket, record, arrays)

    @abc.abstractmethod
    def _fill(
        self, bucket: Any, record: int, arrays: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Returns the arrays of a row.

        Args:
            bucket: Of its batch.
            record: Number of the record, or EMPTY.
            arrays: What the transform made of it; None for an empty row.

        Raises:
            UnreadableImageError: If they do not fit the bucket.
        """

    def where(self, index: int) -> str:
        """Returns a human-readable name of the record of a row."""
        record = int(self._plan.records[index // 2])
        where = getattr(self._source, "where", None)
        return where(record) if where else f"record {record}"

    def load(
        self,
        *,
        num_workers: int,
        process_index: int,
        process_count: int,
        unreadable: UnreadableRecords,
    ) -> grain.IterDataset:
        """Returns the batches of the plan.

        Args:
            num_workers: Processes that load; 0 loads in threads.
            process_index: Which part of each batch to return.
            process_count: Into how many parts a batch is split.
            unreadable: Counts the records that cannot be read.
        """
        batches = load_in_order(
            grain.MapDataset.range(len(self._plan.records)).map(_ReadRow(self)),
            batch_size=self._plan.batch_size,
            num_workers=num_workers,
            process_index=process_index,
            process_count=process_count,
        )
        return unreadable.watch(batches, self, dict)


class _ReadRow(grain.transforms.Map):
    """From the index of a row to its arrays."""

    def __init__(self, rows: EvalRows):
        self._rows = rows

    def map(self, element: int) -> dict[str, Any]:
        arrays, _ = read_readable(self._rows, 2 * element, dict)
        return arrays
