"""Loads the batches of an evaluation whose images have many sizes; see `buckets.py`."""

from typing import Any

import grain
import numpy as np

from litv2_jax.data.buckets import Bucket, other_ratios
from litv2_jax.data.eval_rows import EvalPlan, EvalRows
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.segmentation import (
    SegmentationEvalTransform,
    name_view,
)
from litv2_jax.data.unreadable import UnreadableImageError, UnreadableRecords


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
    that are empty, because a bucket has no more records or one is unreadable. At other
    factors on the scale, `image_0.5` and `size_0.5` and so on.

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
    return _Rows(source, plan, transform).load(
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
        unreadable=unreadable,
    )


class _Rows(EvalRows):
    """Images and labels, each on the canvas of its bucket."""

    def __init__(
        self,
        source: grain.sources.RandomAccessDataSource,
        plan: EvalPlan,
        transform: SegmentationEvalTransform,
    ):
        """Takes what the rows are made of; the plan is one of this source."""
        super().__init__(source, plan, transform)
        self._ratios = [1.0, *other_ratios(transform)]

    def _fill(
        self, bucket: Bucket, record: int, arrays: dict[str, Any] | None
    ) -> dict[str, Any]:
        del record
        row: dict[str, Any] = {"valid": np.bool_(arrays is not None)}
        canvases = [bucket.image, *bucket.others]
        for ratio, canvas in zip(self._ratios, canvases, strict=True):
            name = name_view("image", ratio)
            image = arrays[name] if arrays else np.zeros((*canvas, 3), np.uint8)
            row[name], row[name_view("size", ratio)] = _place(image, canvas, 0)
        if arrays:
            label = arrays["label"]
        else:
            label = np.full(bucket.label, geometry.IGNORED, np.uint8)
        row["label"], row["label_size"] = _place(label, bucket.label, geometry.IGNORED)
        return row


def _place(
    array: np.ndarray, canvas: tuple[int, int], value: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array on a canvas with a value around it, and its size, int32 [2].

    Raises:
        UnreadableImageError: If it does not fit.
    """
    if array.shape[0] > canvas[0] or array.shape[1] > canvas[1]:
        raise UnreadableImageError("it has changed since the batches were planned")
    return geometry.pad(array, canvas, value), np.array(array.shape[:2], np.int32)
