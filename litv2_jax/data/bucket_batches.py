"""Loads the batches of an evaluation whose images have many sizes; see `buckets.py`."""

from typing import Any

import grain
import numpy as np

from litv2_jax.data.buckets import Bucket
from litv2_jax.data.eval_rows import EvalPlan, EvalRows
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform
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
    return _Rows(source, plan, transform).load(
        num_workers=num_workers,
        process_index=process_index,
        process_count=process_count,
        unreadable=unreadable,
    )


class _Rows(EvalRows):
    """Images and labels, each on the canvas of its bucket."""

    def _fill(
        self, bucket: Bucket, record: int, arrays: dict[str, Any] | None
    ) -> dict[str, Any]:
        del record
        if arrays:
            image, label = arrays["image"], arrays["label"]
        else:
            image = np.zeros((*bucket.image, 3), np.uint8)
            label = np.full(bucket.label, geometry.IGNORED, np.uint8)
        if not (_fits(image, bucket.image) and _fits(label, bucket.label)):
            raise UnreadableImageError("it has changed since the batches were planned")
        return {
            "image": geometry.pad(image, bucket.image, 0),
            "size": np.array(image.shape[:2], np.int32),
            "label": geometry.pad(label, bucket.label, geometry.IGNORED),
            "label_size": np.array(label.shape, np.int32),
            "valid": np.bool_(arrays is not None),
        }


def _fits(array: np.ndarray, canvas: tuple[int, int]) -> bool:
    return array.shape[0] <= canvas[0] and array.shape[1] <= canvas[1]
