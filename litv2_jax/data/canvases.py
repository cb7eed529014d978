"""Plans batches of images of many sizes on canvases of few.

A program is compiled for each canvas. Which images make up which batch depends on their
sizes, the seed and the epoch alone, so that a resumed run repeats itself on any number
of processes.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from litv2_jax.data.detection_records import DetectionIndex
from litv2_jax.data.eval_rows import EvalPlan
from litv2_jax.data.few_canvases import merge_canvases
from litv2_jax.data.transforms.geometry import keep_ratio_size
from litv2_jax.settings import ConfigError

Canvas = tuple[int, int]

# mmdetection trains on no image with a shorter side.
_LEAST_SIDE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class TrainPlan:
    """Which images are put on which canvas, and in what order.

    An epoch has every image, and of each canvas some twice, so that all batches are
    full; mmdetection fills its two groups of aspect ratios in the same way.

    Attributes:
        batch_size: Rows of a batch, of all processes together.
        canvases: Height and width of each canvas.
        members: int64 [images], the records on each canvas.
        seed: Of the order.
    """

    batch_size: int
    canvases: tuple[Canvas, ...]
    members: tuple[np.ndarray, ...]
    seed: int

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return sum(-(-len(records) // self.batch_size) for records in self.members)

    @property
    def num_images(self) -> int:
        """Images that are trained on."""
        return sum(map(len, self.members))

    def order(self, epoch: int) -> np.ndarray:
        """Returns the canvas and the place among its members of each row, [rows, 2]."""
        return _order(self, epoch)


@functools.lru_cache(maxsize=2)
def _order(plan: TrainPlan, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([plan.seed, epoch])
    batches = []
    for canvas, records in enumerate(plan.members):
        count = -(-len(records) // plan.batch_size)
        # Round and round until the last batch is full.
        places = np.resize(rng.permutation(len(records)), count * plan.batch_size)
        rows = np.stack([np.full(len(places), canvas), places], 1)
        batches.append(rows.reshape(count, plan.batch_size, 2))
    return rng.permutation(np.concatenate(batches)).reshape(-1, 2)


def plan_training(
    index: DetectionIndex,
    *,
    scale: tuple[int, int],
    canvases: Sequence[Canvas],
    empty_images: str,
    batch_size: int,
    seed: int,
) -> TrainPlan:
    """Puts each image on the smallest canvas that it fits on.

    Args:
        index: Of the split.
        scale: What the longer and the shorter side of an image may have, in pixels.
        canvases: Their heights and widths, in pixels.
        empty_images: `skipped` leaves out images without annotations, as published;
            `kept` has the model learn that there is nothing.
        batch_size: Rows of a batch, of all processes together.
        seed: Of the order.

    Raises:
        ConfigError: If an image fits on no canvas, or there are fewer images than a
            batch has.
    """
    canvases = sorted(set(canvases), key=lambda canvas: canvas[0] * canvas[1])
    members: dict[Canvas, list[int]] = defaultdict(list)
    is_used = index.sizes.min(1, initial=2**31 - 1) >= _LEAST_SIDE
    if empty_images == "skipped":
        is_used &= index.num_annotations > 0
    for record in np.flatnonzero(is_used).tolist():
        height, width = index.sizes[record].tolist()
        size = keep_ratio_size((height, width), *scale)
        canvas = next((c for c in canvases if _fits(size, c)), None)
        if canvas is None:
            raise ConfigError(
                f"An image of {width}x{height} pixels (image "
                f"{index.image_ids[record]}) becomes {size[1]}x{size[0]}, which fits "
                "on none of config.data.canvases: add a larger one (height, width)."
            )
        members[canvas].append(record)
    if is_used.sum() < batch_size:
        raise ConfigError(
            f"config.batch_size is {batch_size}, more than the {is_used.sum()} images "
            f"there are to train on, of {len(is_used)}, less those without annotations "
            f"or with a side below {_LEAST_SIDE} pixels."
        )
    used = [canvas for canvas in canvases if members[canvas]]
    records = tuple(np.array(members[canvas], np.int64) for canvas in used)
    return TrainPlan(batch_size, tuple(used), records, seed)


def plan_evaluation(
    index: DetectionIndex, *, scale: tuple[int, int], multiple: int, batch_size: int
) -> EvalPlan:
    """Groups all images on a few canvases; the largest come first.

    Detectors are told the size of each image, so that no score depends on its canvas.

    Args:
        index: Of the split.
        scale: As in `plan_training`.
        multiple: Sides of a canvas are multiples of it, in pixels.
        batch_size: Rows of a batch, of all processes together.
    """
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for record, (height, width) in enumerate(index.sizes.tolist()):
        rows, columns = keep_ratio_size((height, width), *scale)
        canvas = -(-rows // multiple) * multiple, -(-columns // multiple) * multiple
        members[canvas].append(record)
    merged = merge_canvases(members)
    ordered = sorted(merged, key=lambda c: (c[0] * c[1], c), reverse=True)
    return EvalPlan.fill(((canvas, merged[canvas]) for canvas in ordered), batch_size)


def _fits(size: tuple[int, int], canvas: Canvas) -> bool:
    return size[0] <= canvas[0] and size[1] <= canvas[1]
