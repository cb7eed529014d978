"""Images per second of the input pipeline alone, and of each of its stages.

Stages are measured in CPU time, so that other work on the machine matters little: their
images per second are those of one core that does nothing else. `images/s` of a whole
pipeline is what arrives in wall time.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import photos, results, timing
from benchmarks.arguments import integer_from, positive
from benchmarks.data.pipeline_timing import IMAGE_SIZE, Clocked, Ready, time_pipeline
from benchmarks.results import Row
from litv2_jax.data.sources.tfds import ImageSource
from litv2_jax.data.transforms import imagenet

PACKAGES = ("pillow", "grain", "array_record", "tensorflow-datasets", "numpy")
# Of every pipeline: worker processes take seconds to start.
MAX_STARTS = 3
Box = tuple[int, int, int, int]
SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5
# Images/s that one H200 trains at, estimated from the compiled programs: not measured.
H200_TRAINING = {"litv2_s": 6700, "litv2_m": 4000, "litv2_b": 2800}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--images", type=positive, default=256, help="to make")
    parser.add_argument(
        "--workers",
        type=integer_from(0),
        nargs="+",
        default=[0, 1, 2],
        help="numbers of processes that load; 0 loads in threads",
    )
    parser.add_argument(
        "--rounds", type=positive, default=9, help="medians are taken of so many"
    )
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/data.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    description = results.describe_run(PACKAGES)
    with tempfile.TemporaryDirectory() as data_dir:
        config = photos.PhotosConfig(
            name="benchmark", num_train=options.images, num_validation=1
        )
        photos.prepare(data_dir, config)
        source = ImageSource("photos/benchmark", "train", data_dir)
        rows = measure(source, options.workers, options.rounds)
    results.write_json(rows, description, options.output)
    results.print_report(rows, description)


def measure(
    source: grain.sources.RandomAccessDataSource, workers: Sequence[int], rounds: int
) -> list[Row]:
    """Returns all rows for the records of a source."""
    records = [source[i] for i in range(len(source))]
    boxes = _draw_boxes(records)
    stages = measure_stages(source, records, boxes, rounds)
    pipelines = measure_pipelines(source, workers, rounds, limit=stages[0].value)
    return [
        *_describe_images(records),
        *stages,
        *pipelines,
        *count_cores_needed(pipelines),
    ]


def measure_stages(
    source: grain.sources.RandomAccessDataSource,
    records: Sequence[dict[str, Any]],
    boxes: Sequence[Box],
    rounds: int,
) -> list[Row]:
    """Times what happens to an image, stage by stage, on one core.

    The first row is the limit: one core that does nothing but transform.
    """
    transform, *stages = _time_transform(source, records, boxes, rounds).items()
    # Pixels that cost nothing to make show what it costs to collect and to send them.
    collect, send = (_time_ready_pixels(w, min(rounds, MAX_STARTS)) for w in (0, 1))
    stages += [("batch", collect), ("between processes", max(send - collect, 0.0))]
    total = sum(seconds for _, seconds in stages)
    rows = [Row("one core", "limit: decode to array", "images/s", 1 / transform[1])]
    for name, seconds in stages:
        if seconds:
            rows.append(Row("one core", name, "images/s", 1 / seconds))
        rows.append(Row("one core", name, "ms/image", 1000 * seconds))
        rows.append(Row("one core", name, "share of time", seconds / total))
    return rows


def _time_transform(
    source: grain.sources.RandomAccessDataSource,
    records: Sequence[dict[str, Any]],
    boxes: Sequence[Box],
    rounds: int,
) -> dict[str, float]:
    """Returns seconds per image of the whole transform, then of its parts."""
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    transform = _create_transform()
    whole = [imagenet.decode(record["image"]) for record in records]
    crops = [*map(_crop_and_resize, whole, boxes)]
    rng = np.random.default_rng(0)
    seconds = timing.time_interleaved(
        {
            "transform": lambda: [transform.random_map(r, rng) for r in records],
            "read": lambda: [source[i] for i in order],
            "decode": lambda: [imagenet.decode(record["image"]) for record in records],
            "crop and resize": lambda: [*map(_crop_and_resize, whole, boxes)],
            "flip, to array": lambda: [_flip(crop, rng) for crop in crops],
        },
        rounds,
    )
    return {name: float(np.median(x)) / len(records) for name, x in seconds.items()}


def _time_ready_pixels(workers: int, starts: int) -> float:
    """Returns the CPU seconds per image of a pipeline that only passes pixels on."""
    source = [{"image": b"", "label": 0}]
    times = [time_pipeline(source, Ready(), workers)["cpu"] for _ in range(starts)]
    return float(np.median(times))


def measure_pipelines(
    source: grain.sources.RandomAccessDataSource,
    workers: Sequence[int],
    rounds: int,
    *,
    limit: float,
) -> list[Row]:
    """Times whole pipelines, each started anew a few times, in turns.

    Args:
        source: Records of JPEG files.
        workers: Numbers of processes that load.
        rounds: How often, at most.
        limit: Images/s of decoding, cropping and resizing on one core.
    """
    transform = _create_transform()
    found: dict[int, list[dict[str, float]]] = {w: [] for w in workers}
    for _ in tqdm(range(min(rounds, MAX_STARTS)), desc="pipelines", leave=False):
        for w in workers:
            found[w].append(time_pipeline(source, Clocked(transform), w))
    rows = []
    for w, times in found.items():
        name = "threads only" if w == 0 else f"{w} worker{'s' if w > 1 else ''}"
        wall, cpu = (
            float(np.median([t[key] for t in times])) for key in ("wall", "cpu")
        )
        rows.append(Row("pipeline", name, "images/s", 1 / wall))
        rows.append(Row("pipeline", name, "images/s per core", 1 / cpu))
        rows.append(Row("pipeline", name, "CPU ms/image", 1000 * cpu))
        rows.append(Row("pipeline", name, "share of limit", 1 / cpu / limit))
    return rows


def count_cores_needed(pipelines: Sequence[Row]) -> list[Row]:
    """Says how many cores like this one keep one H200 busy, by the last pipeline."""
    speed = [r.value for r in pipelines if r.quantity == "images/s per core"][-1]
    rows = []
    for name, needed in H200_TRAINING.items():
        rows.append(Row("to feed one H200", name, "images/s (estimate)", needed))
        rows.append(Row("to feed one H200", name, "cores", needed / speed))
    return rows


def _draw_boxes(records: Sequence[dict[str, Any]]) -> list[Box]:
    rng = np.random.default_rng(0)
    sizes = [Image.open(io.BytesIO(record["image"])).size for record in records]
    return [imagenet.random_box(size, SCALE, RATIO, rng) for size in sizes]


def _create_transform() -> imagenet.TrainTransform:
    return imagenet.TrainTransform(IMAGE_SIZE, scale=SCALE, ratio=RATIO, flip=FLIP)


def _crop_and_resize(image: Image.Image, box: Box) -> Image.Image:
    """Does what training does after decoding, apart from the flip."""
    return image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), imagenet.BICUBIC)


def _flip(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < FLIP:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _describe_images(records: Sequence[dict[str, Any]]) -> list[Row]:
    sizes = [Image.open(io.BytesIO(record["image"])).size for record in records]
    kilobytes = sum(len(record["image"]) for record in records) / 1000
    megapixels = sum(width * height for width, height in sizes) / 1e6
    return [
        Row("images", "photos", "number", len(records)),
        Row("images", "photos", "mean kB", kilobytes / len(records)),
        Row("images", "photos", "mean megapixels", megapixels / len(records)),
    ]
