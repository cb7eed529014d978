"""CPU time of what happens to one image, stage by stage."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.data.pipeline_timing import IMAGE_SIZE, Ready, time_pipeline
from benchmarks.results import Row
from litv2_jax.data import decode
from litv2_jax.data.transforms import imagenet

# Of every pipeline: worker processes take seconds to start.
MAX_STARTS = 3
SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5


def create_transform() -> imagenet.TrainTransform:
    """Returns what training does to a record, with RandAugment on the device."""
    return imagenet.TrainTransform(IMAGE_SIZE, scale=SCALE, ratio=RATIO, flip=FLIP)


def measure_stages(
    source: grain.sources.RandomAccessDataSource,
    records: Sequence[dict[str, Any]],
    rounds: int,
) -> list[Row]:
    """Times what happens to an image, stage by stage, on one core.

    The first row is the limit: one core that does nothing but transform.
    """
    transform, *stages = _time_transform(source, records, rounds).items()
    # Pixels that cost nothing to make show what it costs to collect and to send them.
    collect, send = (_time_ready_pixels(w, min(rounds, MAX_STARTS)) for w in (0, 1))
    stages += [("batch", collect), ("between processes", max(send - collect, 0.0))]
    total = sum(seconds for _, seconds in stages)
    rows = [Row("one core", "limit: decode to array", "images/s", 1 / transform[1])]
    for name, seconds in stages:
        rows.append(Row("one core", name, "ms/image", 1000 * seconds))
        rows.append(Row("one core", name, "share of time", seconds / total))
    return rows


def _time_transform(
    source: grain.sources.RandomAccessDataSource,
    records: Sequence[dict[str, Any]],
    rounds: int,
) -> dict[str, float]:
    """Returns seconds per image of the whole transform, then of its parts."""
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    transform, rng = create_transform(), np.random.default_rng(0)
    files = [record["image"] for record in records]
    whole = [*map(decode.load, files)]
    boxes = [imagenet.random_box(each.size, SCALE, RATIO, rng) for each in whole]
    crops = [*map(Image.Image.crop, whole, boxes)]
    resized = [*map(_resize, crops)]
    seconds = timing.time_interleaved(
        {
            "transform": lambda: [transform.random_map(r, rng) for r in records],
            "read": lambda: [source[i] for i in order],
            "open": lambda: [*map(decode.open_image, files)],
            "decode": lambda: [*map(decode.load, files)],
            "crop": lambda: [*map(Image.Image.crop, whole, boxes)],
            "resize": lambda: [*map(_resize, crops)],
            "flip": lambda: [_flip(image, rng) for image in resized],
            "to an array": lambda: [*map(np.asarray, resized)],
        },
        rounds,
    )
    found = {name: float(np.median(x)) / len(records) for name, x in seconds.items()}
    found["decode"] -= found["open"]
    return found


def _resize(image: Image.Image) -> Image.Image:
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), imagenet.BICUBIC)


def _flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < FLIP:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def _time_ready_pixels(workers: int, starts: int) -> float:
    """Returns the CPU seconds per image of a pipeline that only passes pixels on."""
    source = [{"image": b"", "label": 0}]
    times = [time_pipeline(source, Ready(), workers)["cpu"] for _ in range(starts)]
    return float(np.median(times))
