"""Images per second of the input pipeline alone, and of each of its stages.

Stages are measured in CPU time, so that other work on the machine matters little: their
images per second are those of one core that does nothing else. `images/s` of a whole
pipeline is what arrives in wall time.
"""

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import decoders, photos, pipeline_timing, results, timing
from benchmarks.results import Row
from litv2_jax.data.sources.tfds import ImageSource
from litv2_jax.data.transforms import imagenet

PACKAGES = ("pillow", "grain", "array_record", "tensorflow-datasets", "numpy")
# Decoders take turns after this many images, more often than a machine's load changes.
IMAGES_PER_TURN = 32
# Of every pipeline: worker processes take seconds to start.
MAX_STARTS = 3
SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5
# Images/s that one H200 trains at, estimated from the compiled programs: not measured.
H200_TRAINING = {"litv2_s": 6700, "litv2_m": 4000, "litv2_b": 2800}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    positive, natural = _count_from(1), _count_from(0)
    parser.add_argument("--images", type=positive, default=256, help="to make")
    parser.add_argument(
        "--workers",
        type=natural,
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
    packages = [*PACKAGES, *(["simplejpeg"] if decoders.simplejpeg else [])]
    description = results.describe_run(packages)
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
        *measure_decoders(records, boxes, rounds),
        *pipelines,
        *count_cores_needed(pipelines),
    ]


def measure_stages(
    source: grain.sources.RandomAccessDataSource,
    records: Sequence[dict[str, Any]],
    boxes: Sequence[decoders.Box],
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
    boxes: Sequence[decoders.Box],
    rounds: int,
) -> dict[str, float]:
    """Returns seconds per image of the whole transform, then of its parts."""
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    transform = _create_transform()
    whole = [imagenet.decode(record["image"]) for record in records]
    crops = [*map(decoders.crop_and_resize, whole, boxes)]
    rng = np.random.default_rng(0)
    seconds = timing.time_interleaved(
        {
            "transform": lambda: [transform.random_map(r, rng) for r in records],
            "read": lambda: [source[i] for i in order],
            "decode": lambda: [imagenet.decode(record["image"]) for record in records],
            "crop and resize": lambda: [*map(decoders.crop_and_resize, whole, boxes)],
            "flip, to array": lambda: [_flip(crop, rng) for crop in crops],
        },
        rounds,
    )
    return {name: float(np.median(x)) / len(records) for name, x in seconds.items()}


def _time_ready_pixels(workers: int, starts: int) -> float:
    """Returns the CPU seconds per image of a pipeline that only passes pixels on."""
    source = [{"image": b"", "label": 0}]
    times = [
        pipeline_timing.time_pipeline(source, pipeline_timing.Ready(), workers)["cpu"]
        for _ in range(starts)
    ]
    return float(np.median(times))


def measure_decoders(
    records: Sequence[dict[str, Any]], boxes: Sequence[decoders.Box], rounds: int
) -> list[Row]:
    """Times every decoder, alone and with crop and resize; compares the pixels."""
    files = [record["image"] for record in records]
    candidates = decoders.list_decoders()
    first = next(iter(candidates))

    def crop(decode: decoders.Decoder, files: list[bytes]) -> list[Image.Image]:
        return [
            decoders.crop_and_resize(*decode(file, box))
            for file, box in zip(files, boxes, strict=False)
        ]

    turn = files[:IMAGES_PER_TURN]
    functions: dict[str, Callable[[], object]] = {}
    for name, decode in candidates.items():
        functions[f"{name}: decode"] = lambda d=decode: [*map(d, turn, boxes)]
        functions[f"{name}: crop"] = lambda d=decode: crop(d, turn)
    seconds = timing.time_interleaved(functions, 8 * rounds)
    expected = [np.asarray(image, np.int16) for image in crop(candidates[first], files)]
    rows = []
    for name, decode in candidates.items():
        differences = [
            int(np.abs(np.asarray(image, np.int16) - x).max())
            for image, x in zip(crop(decode, files), expected, strict=True)
        ]
        for part, quantity in (("decode", "decode"), ("crop", "decode, crop, resize")):
            taken = seconds[f"{name}: {part}"]
            speed = len(turn) / float(np.median(taken))
            ratio = float(np.median(seconds[f"{first}: {part}"] / taken))
            rows.append(Row("decoder", name, f"{quantity}: images/s", speed))
            rows.append(Row("decoder", name, f"{quantity}: ratio", ratio))
        rows.append(Row("decoder", name, "greatest difference", max(differences)))
        identical = differences.count(0) / len(files)
        rows.append(Row("decoder", name, "share identical", identical))
    return rows


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
            found[w].append(
                pipeline_timing.time_pipeline(
                    source, pipeline_timing.Clocked(transform), w
                )
            )
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


def _draw_boxes(records: Sequence[dict[str, Any]]) -> list[decoders.Box]:
    rng = np.random.default_rng(0)
    sizes = [Image.open(io.BytesIO(record["image"])).size for record in records]
    return [imagenet.random_box(size, SCALE, RATIO, rng) for size in sizes]


def _create_transform() -> imagenet.TrainTransform:
    return imagenet.TrainTransform(
        decoders.IMAGE_SIZE, scale=SCALE, ratio=RATIO, flip=FLIP
    )


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


def _count_from(least: int) -> Callable[[str], int]:
    """Returns a reader of numbers for argparse that refuses smaller ones."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text} is too small; at least {least} is needed"
            )
        return int(text)

    return number
