"""What XLA makes of LITv2 for an H200, compiled without one: kernels, bytes, scatters.

Nothing runs, so the times are estimates, of a GPU that is always at its best. The least
number of bytes is that of `minimum.py`; `benchmarks/hlo.py` says how bytes count.
"""

import argparse
import collections
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import hlo, results
from benchmarks.arguments import positive
from benchmarks.h200 import scaling
from benchmarks.h200.deviceless import find_h200s
from benchmarks.h200.estimates import estimate_seconds
from benchmarks.h200.minimum import minimum_bytes
from benchmarks.h200.programs import (
    Program,
    compile_augmentation,
    compile_detector,
    compile_model,
)
from benchmarks.programs import DETECTION, WORK
from benchmarks.results import Row
from configs import imagenet
from litv2_jax.models.backbone import VARIANTS
from litv2_jax.settings import ConfigError

AUGMENT = "augment"
# Scopes that the detectors name; see `jax.named_scope`.
_PARTS = ("backbone", "pyramid", "heads", "post-processing", "losses")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["litv2_s"],
        choices=[*imagenet.DROP_PATH_RATE, *DETECTION],
        metavar="NAME",
        help="models with a recipe for ImageNet, or detectors",
    )
    parser.add_argument(
        "--work",
        nargs="+",
        default=WORK,
        choices=[*WORK, AUGMENT],
        help=f"programs; {AUGMENT} is RandAugment and random erasing alone",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images")
    parser.add_argument(
        "--image-size", type=positive, default=224, help="pixels, of no detector"
    )
    parser.add_argument(
        "--devices",
        type=int,
        nargs="+",
        metavar="GPUS",
        help="compile the steps of two recipes for so many, 128 and 2 images on each, "
        "instead of the above",
    )
    parser.add_argument("--output", type=Path, help="JSON file")


def run(options: argparse.Namespace) -> None:
    """Compiles, prints and writes."""
    try:
        for count in options.devices or [1]:
            find_h200s(count)
    except ConfigError as error:
        sys.exit(str(error))
    description: dict[str, Any] = results.describe_run(("jax", "jaxlib", "flax"))
    description["target"] = "H200 (compiled without one)"
    if options.devices:
        rows = scaling.measure_steps(sorted(options.devices))
    else:
        sizes = options.batch_size, options.image_size
        description["batch_size"] = options.batch_size
        if not {*options.variants} <= {*DETECTION}:
            description["image_size"] = options.image_size
        rows = [
            row
            for work in options.work
            for row in (
                measure_augmentation(*sizes)
                if work == AUGMENT
                else measure_models(options.variants, work, *sizes)
            )
        ]
    name = "h200_devices" if options.devices else "h200"
    output = options.output or results.ROOT / f"benchmarks/results/{name}.json"
    results.write_json(rows, description, output)
    results.print_report(rows, description)


def measure_augmentation(batch_size: int, image_size: int) -> list[Row]:
    """Returns the numbers of RandAugment and of random erasing, each alone.

    Args:
        batch_size: Number of images.
        image_size: Side of the images in pixels.
    """
    return [
        Row(AUGMENT, name, quantity, value)
        for name, program in compile_augmentation(batch_size, image_size).items()
        for quantity, value in {
            **describe_program(program),
            **_estimate(program, batch_size),
        }.items()
    ]


def measure_models(names: Sequence[str], work: str, *sizes: int) -> list[Row]:
    """Returns the numbers of several models, as `measure_model` does."""
    return [row for name in names for row in measure_model(name, work, *sizes)]


def measure_model(
    name: str, work: str, batch_size: int, image_size: int, **sizes: Any
) -> list[Row]:
    """Returns the numbers of a whole model.

    Args:
        name: Of the model.
        work: `forward` or `train`; of a detector, forward is all of detection.
        batch_size: Number of images.
        image_size: Side of the images in pixels; detectors have `DETECTION_SIZE`.
        **sizes: Of the model, where they are not the published ones.
    """
    if name in DETECTION:
        program = compile_detector(name, work, batch_size)
        values = _estimate(program, batch_size) | measure_parts(program.kernels)
    else:
        program = compile_model(name, work, batch_size, image_size, **sizes)
        config = dataclasses.replace(VARIANTS[name], **sizes)
        least = minimum_bytes(config, image_size, batch_size, work)
        moved = hlo.add_up(program.kernels).bytes_moved
        values = {"minimum GB": least / 1e9, "moved / minimum": moved / least}
        values |= _estimate(program, batch_size)
    values = {**describe_program(program), **values}
    return [Row(work, name, quantity, value) for quantity, value in values.items()]


def _estimate(program: Program, batch_size: int) -> dict[str, float]:
    seconds = estimate_seconds(program.kernels)
    return {
        "TFLOP": hlo.add_up(program.kernels).flops / 1e12,
        "temporary GiB": program.memory / 2**30,
        "ms (estimate)": 1000 * seconds,
        "images/s (estimate)": batch_size / seconds,
        "s to compile": program.seconds,
    }


def measure_parts(kernels: Sequence[hlo.Kernel]) -> dict[str, float]:
    """Returns what each part of a detector has of the estimated time, in percent."""
    seconds = collections.defaultdict[str, float](float)
    for kernel in kernels:
        part = re.search(rf"\b({'|'.join(_PARTS)})\b", kernel.source)
        seconds[part[1] if part else "other"] += estimate_seconds([kernel])
    total = sum(seconds.values())
    return {f"% {part}": 100 * seconds[part] / total for part in [*_PARTS, "other"]}


def describe_program(program: Program) -> dict[str, float]:
    """Returns what is worth knowing of any program, by quantity."""
    totals = hlo.add_up(program.kernels)
    scatters = [kernel for kernel in program.kernels if "scatter" in kernel.ops]
    widths = [width for x in scatters for width in measure_atomics(program, x)]
    return {
        "kernels": totals.kernels,
        "GB moved": totals.bytes_moved / 1e9,
        "scatters": sum(kernel.count for kernel in scatters),
        "numbers per atomic": min(widths, default=0),
        "compare-and-swap": sum(".cas." in text for text in program.ptx.values()),
        "grouped convolutions": sum(
            kernel.count
            for kernel in program.kernels
            if "grouped-convolution" in kernel.ops
        ),
    }


def measure_atomics(program: Program, kernel: hlo.Kernel) -> list[int]:
    """Returns how many numbers each atomic addition of a kernel adds at once.

    There are none where the GPU compares and swaps instead.
    """
    text = program.ptx.get(re.sub(r"[.\-]", "_", kernel.name), "")
    additions = re.findall(r"\b(?:atom|red)\.\S*\badd\S*", text)
    widths = [re.search(r"\.v(\d)", addition) for addition in additions]
    return [int(width[1]) if width else 1 for width in widths]
