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

from benchmarks import photos, results
from benchmarks.arguments import integer_from, positive
from benchmarks.data.augmentation import measure_rand_augment
from benchmarks.data.pipeline_timing import Clocked, time_pipeline
from benchmarks.data.stages import MAX_STARTS, create_transform, measure_stages
from benchmarks.results import Row
from litv2_jax.data.sources.tfds import ImageSource

PACKAGES = ("pillow", "grain", "array_record", "tensorflow-datasets", "numpy", "jax")
# Images/s that one H200 trains at, by docs/benchmarks.md. M and B take 1.7 and 2.4
# times as long as S, by the programs that XLA compiles.
H200_TRAINING = {
    "litv2_s, measured": 3650,
    "litv2_s, estimated": 5600,
    "litv2_m, estimated": 3300,
    "litv2_b, estimated": 2300,
}


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
        "--short-side",
        type=integer_from(0),
        default=0,
        metavar="PIXELS",
        help="make larger photos as small as `litv2_jax.prepare imagenet2012` does",
    )
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/data.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    description = results.describe_run(PACKAGES)
    with tempfile.TemporaryDirectory() as data_dir:
        config = photos.PhotosConfig(
            name="benchmark",
            num_train=options.images,
            num_validation=1,
            short_side=options.short_side,
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
    stages = measure_stages(source, records, rounds)
    rand_augment = measure_rand_augment(records, rounds)
    pipelines = measure_pipelines(source, workers, rounds, limit=stages[0].value)
    return [
        *_describe_images(records),
        *stages,
        *rand_augment,
        *pipelines,
        *count_cores_needed(pipelines, rand_augment[0].value),
    ]


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
    transform = create_transform()
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


def count_cores_needed(pipelines: Sequence[Row], rand_augment: float) -> list[Row]:
    """Says how many cores like this one keep one H200 busy, by the last pipeline.

    Args:
        pipelines: Rows of all of them.
        rand_augment: Milliseconds of a core for an image, where it runs on the host.
    """
    loading = [row.value for row in pipelines if row.quantity == "CPU ms/image"][-1]
    rows = []
    for name, needed in H200_TRAINING.items():
        part = "to feed one H200"
        rows.append(Row(part, name, "images/s", needed))
        rows.append(Row(part, name, "cores", needed * loading / 1000))
        cores = needed * (loading + rand_augment) / 1000
        rows.append(Row(part, name, "cores, RandAugment on the host", cores))
    return rows


def _describe_images(records: Sequence[dict[str, Any]]) -> list[Row]:
    sizes = [Image.open(io.BytesIO(record["image"])).size for record in records]
    kilobytes = sum(len(record["image"]) for record in records) / 1000
    megapixels = sum(width * height for width, height in sizes) / 1e6
    return [
        Row("images", "photos", "number", len(records)),
        Row("images", "photos", "mean kB", kilobytes / len(records)),
        Row("images", "photos", "mean megapixels", megapixels / len(records)),
    ]
