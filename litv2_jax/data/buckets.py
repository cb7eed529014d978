"""Plans batches of few shapes for images of many sizes.

A program is compiled for each shape of a batch. Therefore images are put on a few
canvases, and each batch takes images of one canvas. Models are told the size of each
image, so that their numbers do not depend on it.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

import grain

from litv2_jax.data.eval_rows import EvalPlan
from litv2_jax.data.few_canvases import merge_canvases
from litv2_jax.data.scan import scan_records
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform, read_size

# Labels keep the size of the original image: coarse rounding limits their shapes.
_LABEL_MULTIPLE = 256

_SMALLEST = 32  # Pixels of a canvas where no size is known at all.


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Height and width of the canvases of a batch.

    Attributes:
        image: Of images.
        label: Of labels.
        others: Of the same images at other factors on the scale, if there are any.
    """

    image: tuple[int, int]
    label: tuple[int, int]
    others: tuple[tuple[int, int], ...] = ()

    def flatten(self) -> tuple[int, ...]:
        """Returns heights and widths in turns."""
        return tuple(itertools.chain(self.image, self.label, *self.others))

    @classmethod
    def unflatten(cls, sides: Sequence[int]) -> "Bucket":
        """Undoes `flatten`."""
        image, label, *others = zip(sides[::2], sides[1::2], strict=True)
        return cls(image, label, tuple(others))


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
    sizes = scan_records(
        lambda record: read_size(source[record]["annotation"]),
        len(source),
        "read sizes",
    )
    for record, size in enumerate(sizes):
        if size is None:
            unreadable.append(record)
        else:
            image, *others = (
                transform.image_size(size, ratio)
                for ratio in (1.0, *other_ratios(transform))
            )
            bucket = find_bucket(image, size, multiple, others)
            records_of[bucket].append(record)
    if unreadable:
        # Each makes an empty row, of whatever size; where it is read, it is counted.
        canvas = _round_up((_SMALLEST, _SMALLEST), multiple)
        others = (canvas,) * len(other_ratios(transform))
        smallest = min(records_of, default=Bucket(canvas, canvas, others))
        records_of[smallest] = sorted(records_of[smallest] + unreadable)
    if multiple > 1:
        flat = {bucket.flatten(): records for bucket, records in records_of.items()}
        records_of = {
            Bucket.unflatten(sides): records
            for sides, records in merge_canvases(flat).items()
        }
    ordered = sorted(records_of, key=_area, reverse=True)
    return EvalPlan.fill(((b, records_of[b]) for b in ordered), batch_size)


def other_ratios(transform: SegmentationEvalTransform) -> list[float]:
    """Returns the factors on the scale that are not 1, in the order of `others`."""
    return [ratio for ratio in transform.ratios if ratio != 1]


def find_bucket(
    image_size: tuple[int, int],
    label_size: tuple[int, int],
    multiple: int,
    other_sizes: Sequence[tuple[int, int]] = (),
) -> Bucket:
    """Returns the canvases of an image after resizing and of its label.

    The label has the canvas of the image, if it fits there: most do, and so do not
    multiply the shapes.
    """
    image = _round_up(image_size, multiple)
    others = tuple(_round_up(size, multiple) for size in other_sizes)
    if multiple == 1:
        return Bucket(image, label_size, others)
    if label_size[0] <= image[0] and label_size[1] <= image[1]:
        return Bucket(image, image, others)
    label = _round_up(label_size, max(multiple, _LABEL_MULTIPLE))
    return Bucket(image, label, others)


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (multiple * -(-side // multiple) for side in size)
    return height, width


def _area(bucket: Bucket) -> tuple[int, Bucket]:
    return bucket.image[0] * bucket.image[1], bucket
