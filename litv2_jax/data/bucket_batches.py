"""Loads the batches of an evaluation whose images have many sizes; see `buckets.py`."""

from typing import Any

import grain
import numpy as np

from litv2_jax.data.buckets import EMPTY, Bucket, EvalPlan
from litv2_jax.data.pipeline import load_in_order
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform
from litv2_jax.data.unreadable import (
    UnreadableImageError,
    UnreadableRecords,
    read_readable,
)


def eval_batches(
    source: grain.sources.RandomAccessDataSource,
    plan: EvalPlan,
    transform: SegmentationEvalTransform,
    *,
    num_workers: int,
    process_index: int,
    process_count: int,
    unreadable: UnreadableRecords | None = None,
) -> grain.IterDataset:
    """Returns the batches of a plan, each of the shape of its bucket.

    Shapes: `image` uint8 [B, H, W, 3], 0 outside `size` int32 [B, 2]; `label` uint8 [B,
    H', W'], 255 outside `label_size` int32 [B, 2]; `valid` bool [B], false for rows
    that are empty, because a bucket has no more records or one is unreadable.

    Args:
        source: As the plan was made for.
        plan: From `plan_eval_batches`.
        transform: The one that the plan was made with.
        num_workers: Processes that load; 0 loads in threads.
        process_index: Which part of each batch to return.
        process_count: Into how many parts a batch is split.
        unreadable: Counts the records that cannot be read; without it the first of them
            ends the run.
    """
    if unreadable is None:
        unreadable = UnreadableRecords(0)
    rows = _Rows(source, plan, transform)
    batches = load_in_order(
        grain.MapDataset.range(len(plan.records)).map(_ReadRow(rows)),
        batch_size=plan.batch_size,
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
    )
    return unreadable.watch(batches, rows, _keep)


class _Rows:
    """The rows of a plan, each followed by the empty one that may stand in for it.

    So an unreadable record is replaced by what has the shape of its batch, which the
    next record may not have.
    """

    def __init__(
        self,
        source: grain.sources.RandomAccessDataSource,
        plan: EvalPlan,
        transform: SegmentationEvalTransform,
    ):
        self._source = source
        self._plan = plan
        self._transform = transform

    def __len__(self) -> int:
        return 2 * len(self._plan.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, is_stand_in = divmod(index, 2)
        bucket = self._plan.buckets[row // self._plan.batch_size]
        record = int(self._plan.records[row])
        if is_stand_in or record == EMPTY:
            image = np.zeros((*bucket.image, 3), np.uint8)
            label = np.full(bucket.label, geometry.IGNORED, np.uint8)
            return _fill(bucket, image, label, is_valid=False)
        arrays = self._transform.map(self._source[record])
        image, label = arrays["image"], arrays["label"]
        if not (_fits(image, bucket.image) and _fits(label, bucket.label)):
            raise UnreadableImageError("it has changed since the batches were planned")
        return _fill(bucket, image, label, is_valid=True)

    def where(self, index: int) -> str:
        """Returns what to call the record of a row in front of a person."""
        record = int(self._plan.records[index // 2])
        where = getattr(self._source, "where", None)
        return where(record) if where else f"record {record}"


class _ReadRow(grain.transforms.Map):
    """From the index of a row to its arrays."""

    def __init__(self, rows: _Rows):
        self._rows = rows

    def map(self, element: int) -> dict[str, Any]:
        arrays, _ = read_readable(self._rows, 2 * element, _keep)
        return arrays


def _keep(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays


def _fits(array: np.ndarray, canvas: tuple[int, int]) -> bool:
    return array.shape[0] <= canvas[0] and array.shape[1] <= canvas[1]


def _fill(
    bucket: Bucket, image: np.ndarray, label: np.ndarray, *, is_valid: bool
) -> dict[str, Any]:
    """Puts an image and a label on the canvases of their bucket."""
    return {
        "image": geometry.pad(image, bucket.image, 0),
        "size": np.array(image.shape[:2], np.int32),
        "label": geometry.pad(label, bucket.label, geometry.IGNORED),
        "label_size": np.array(label.shape, np.int32),
        "valid": np.bool_(is_valid),
    }
