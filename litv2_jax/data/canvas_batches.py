"""Loads the batches of detection, each on one canvas; see `canvases.py`."""

from typing import Any

import grain
import numpy as np

from litv2_jax.data.canvases import Canvas, TrainPlan
from litv2_jax.data.eval_rows import EMPTY, EvalPlan, EvalRows
from litv2_jax.data.pipeline import load_in_order
from litv2_jax.data.sources.detection import DetectionSource
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.detection import (
    DetectionEvalTransform,
    DetectionTrainTransform,
)
from litv2_jax.data.unreadable import (
    UnreadableImageError,
    UnreadableRecords,
    read_readable,
)


def train_batches(
    source: DetectionSource,
    plan: TrainPlan,
    transform: DetectionTrainTransform,
    *,
    start_step: int,
    num_workers: int,
    process_index: int,
    process_count: int,
    unreadable: UnreadableRecords,
) -> grain.IterDataset:
    """Returns endless batches, each epoch in a new order.

    Args:
        source: As the plan was made for.
        plan: From `plan_training`.
        transform: From a record to the arrays of a row.
        start_step: Batches that have been used already.
        num_workers: Processes that load; 0 loads in threads.
        process_index: Which part of each batch to return.
        process_count: Into how many parts a batch is split.
        unreadable: Counts the records that cannot be read.
    """
    records = _CanvasRecords(source, plan)
    rows = _PlannedRows(plan).seed(plan.seed)
    batches = load_in_order(
        rows.random_map(_ReadTrainRow(records, transform)),
        batch_size=plan.batch_size,
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
        start_batch=start_step,
        is_endless=True,
    )
    return unreadable.watch(
        batches,
        records,
        lambda record: transform.random_map(record, np.random.default_rng(0)),
    )


def eval_batches(
    source: DetectionSource,
    plan: EvalPlan,
    transform: DetectionEvalTransform,
    *,
    num_workers: int,
    process_index: int,
    process_count: int,
    unreadable: UnreadableRecords,
) -> grain.IterDataset:
    """Returns the batches of a plan, each on its canvas.

    Shapes: `image` uint8 [B, H, W, 3], 0 outside of `size` int32 [B, 2];
    `original_size` int32 [B, 2]; `record` int32 [B]; `valid` bool [B], false for rows
    that are empty, because a canvas has no more records or one is unreadable.

    Args:
        source: As the plan was made for.
        plan: From `plan_evaluation`.
        transform: From a record to its image.
        num_workers: As in `train_batches`.
        process_index: As in `train_batches`.
        process_count: As in `train_batches`.
        unreadable: As in `train_batches`.
    """
    return _EvalRows(source, plan, transform).load(
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
        unreadable=unreadable,
    )


class _PlannedRows(grain.MapDataset):
    """Canvas and place of each row; indices beyond the last are of later epochs."""

    def __init__(self, plan: TrainPlan):
        super().__init__()
        self._plan = plan

    def __len__(self) -> int:
        return self._plan.num_batches * self._plan.batch_size

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, row = divmod(index, len(self))
        canvas, place = self._plan.order(epoch)[row].tolist()
        return canvas, place


class _CanvasRecords:
    """The records of each canvas, twice over, and then an empty one.

    An unreadable record is replaced by the next, which has to be of the same canvas;
    where none of these can be read, nothing stands in.
    """

    def __init__(self, source: DetectionSource, plan: TrainPlan):
        self._source = source
        self._canvases = plan.canvases
        parts = [np.append(np.tile(x, 2), EMPTY) for x in plan.members]
        self.starts = np.cumsum([0, *map(len, parts)])
        self._records = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        canvas = int(np.searchsorted(self.starts, index, side="right")) - 1
        record = int(self._records[index])
        arrays = {} if record == EMPTY else self._source[record]
        return {**arrays, "canvas": self._canvases[canvas]}

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record."""
        return self._source.where(int(self._records[index]))


class _ReadTrainRow(grain.transforms.RandomMap):
    """From canvas and place to the arrays of a row."""

    def __init__(self, records: _CanvasRecords, transform: DetectionTrainTransform):
        self._records = records
        self._transform = transform

    def random_map(
        self, element: tuple[int, int], rng: np.random.Generator
    ) -> dict[str, Any]:
        canvas, place = element
        arrays, _ = read_readable(
            self._records,
            int(self._records.starts[canvas]) + place,
            lambda record: self._transform.random_map(record, rng),
        )
        return arrays


class _EvalRows(EvalRows):
    """Images on their canvases, each with its sizes and its number."""

    def _fill(
        self, bucket: Canvas, record: int, arrays: dict[str, Any] | None
    ) -> dict[str, Any]:
        if arrays:
            image, original_size = arrays["image"], arrays["original_size"]
        else:
            image = np.zeros((*bucket, 3), np.uint8)
            original_size = np.array(bucket, np.int32)
        if (np.array(image.shape[:2]) > bucket).any():
            raise UnreadableImageError("it has another size than the index says")
        return {
            "image": geometry.pad(image, bucket, 0),
            "size": np.array(image.shape[:2], np.int32),
            "original_size": original_size,
            "record": np.int32(record),
            "valid": np.bool_(arrays is not None),
        }
