"""Plans batches of few shapes for images of many sizes.

A program is compiled for each shape of a batch. Therefore images are put on a few
canvases, and each batch takes images of one canvas. Models are told the size of each
image, so that their numbers do not depend on it.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
from tqdm import tqdm

from litv2_jax.data.few_canvases import merge_canvases
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform, read_size
from litv2_jax.data.unreadable import UnreadableImageError

# Labels keep the size of the original image: coarse rounding limits their shapes.
_LABEL_MULTIPLE = 256

EMPTY = -1  # In place of the number of a record.
_SMALLEST = 32  # Pixels of a canvas where no size is known at all.


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Height and width of the canvas of images, and of the canvas of labels."""

    image: tuple[int, int]
    label: tuple[int, int]


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
    buckets: tuple[Bucket, ...]
    records: np.ndarray

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.buckets)


def plan_eval_batches(
    source: grain.sources.RandomAccessDataSource,
    transform: SegmentationEvalTransform,
    *,
    multiple: int,
    batch_size: int,
) -> EvalPlan:
    """Groups the records by the canvas they need; the largest images come first.

    Only the sizes of the annotations are read. Which batches there are depends on these
    alone, so that all processes make the same plan.

    Args:
        source: Records with `annotation`, the bytes of a file.
        transform: Says how large an image becomes.
        multiple: Sides of a canvas are multiples of it, in pixels. More canvases than
            `merge_canvases` leaves are merged; 1 merges none and has one for each size.
        batch_size: Rows of a batch, of all processes together.
    """
    records_of: dict[Bucket, list[int]] = defaultdict(list)
    unreadable = []
    for record, size in enumerate(_read_sizes(source)):
        if size is None:
            unreadable.append(record)
        else:
            bucket = find_bucket(transform.image_size(size), size, multiple)
            records_of[bucket].append(record)
    if unreadable:
        # Each makes an empty row, of whatever size; where it is read, it is counted.
        canvas = _round_up((_SMALLEST, _SMALLEST), multiple)
        smallest = min(records_of, default=Bucket(canvas, canvas))
        records_of[smallest] = sorted(records_of[smallest] + unreadable)
    if multiple > 1:
        flat = {(*b.image, *b.label): records for b, records in records_of.items()}
        records_of = {
            Bucket((height, width), (rows, columns)): records
            for (height, width, rows, columns), records in merge_canvases(flat).items()
        }
    buckets, rows = [], []
    for bucket in sorted(records_of, key=_area, reverse=True):
        records = records_of[bucket]
        num_batches = -(-len(records) // batch_size)
        buckets += [bucket] * num_batches
        rows += records + [EMPTY] * (num_batches * batch_size - len(records))
    return EvalPlan(batch_size, tuple(buckets), np.array(rows, np.int64))


def find_bucket(
    image_size: tuple[int, int], label_size: tuple[int, int], multiple: int
) -> Bucket:
    """Returns the canvases of an image after resizing and of its label.

    The label has the canvas of the image, if it fits there: most do, and so do not
    multiply the shapes.
    """
    image = _round_up(image_size, multiple)
    if multiple == 1:
        return Bucket(image, label_size)
    if label_size[0] <= image[0] and label_size[1] <= image[1]:
        return Bucket(image, image)
    return Bucket(image, _round_up(label_size, max(multiple, _LABEL_MULTIPLE)))


def _read_sizes(
    source: grain.sources.RandomAccessDataSource,
) -> Iterator[tuple[int, int] | None]:
    """Yields the size of each annotation, or None where it cannot be read."""

    def read(record: int) -> tuple[int, int] | None:
        try:
            return read_size(source[record]["annotation"])
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        # Shows progress only if this is slow.
        yield from tqdm(
            executor.map(read, range(len(source))),
            "read sizes",
            len(source),
            unit=" images",
            delay=2,
            leave=False,
        )


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (multiple * -(-side // multiple) for side in size)
    return height, width


def _area(bucket: Bucket) -> tuple[int, Bucket]:
    return bucket.image[0] * bucket.image[1], bucket
