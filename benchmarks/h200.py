"""What XLA makes of LITv2 for an H200, compiled without one: kernels, bytes, scatters.

Nothing runs, so the times are estimates, of a GPU that is always at its best. The least
number of bytes is that of `h200_minimum.py`; how bytes are counted, `hlo.py` says.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import hlo, results, scaling
from benchmarks.deviceless import find_h200s
from benchmarks.estimates import estimate_seconds
from benchmarks.h200_minimum import WORK, minimum_bytes
from benchmarks.h200_programs import (
    Program,
    compile_depthwise,
    compile_merging,
    compile_model,
)
from benchmarks.hlo_text import count_bytes
from benchmarks.results import Row
from configs import imagenet
from litv2_jax.models.backbone import VARIANTS, BackboneConfig
from litv2_jax.settings import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["litv2_s"],
        choices=list(imagenet.DROP_PATH_RATE),
        metavar="NAME",
        help="models with a recipe for ImageNet",
    )
    parser.add_argument(
        "--work", nargs="*", default=WORK, choices=WORK, help="programs to compile"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument(
        "--top", type=int, default=0, help="so many kernels that move most are listed"
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
    description = results.describe_run(("jax", "jaxlib", "flax"))
    description["target"] = "H200 (compiled without one)"
    name = "h200_devices" if options.devices else "h200"
    output = options.output or results.ROOT / f"benchmarks/results/{name}.json"
    if options.devices:
        rows = scaling.measure_steps(sorted(options.devices))
        results.write_json(rows, description, output)
        results.print_report(rows, description)
        return
    description["batch_size"] = options.batch_size
    description["image_size"] = options.image_size
    rows = []
    for work in options.work:
        for name in options.variants:
            rows += measure_model(
                name, work, options.batch_size, options.image_size, options.top
            )
    configs = [VARIANTS[name] for name in options.variants]
    rows += measure_layers(configs, options.batch_size, options.image_size)
    results.write_json(rows, description, output)
    results.print_report(rows, description)


def measure_model(
    name: str, work: str, batch_size: int, image_size: int, top: int
) -> list[Row]:
    """Returns the numbers of a whole model; prints the kernels that move most."""
    program = compile_model(name, work, batch_size, image_size)
    if top:
        print(f"{work} {name}", list_heaviest(program.kernels, top), "", sep="\n")
    totals = hlo.add_up(program.kernels)
    least = minimum_bytes(VARIANTS[name], image_size, batch_size, work)
    estimate = estimate_seconds(program.kernels)
    values = {
        **describe_program(program),
        "minimum GB": least / 1e9,
        "moved / minimum": totals.bytes_moved / least,
        "TFLOP": totals.flops / 1e12,
        "temporary GiB": program.memory / 2**30,
        "ms (estimate)": 1000 * estimate,
        "images/s (estimate)": batch_size / estimate,
        "s to compile": program.seconds,
    }
    return [Row(work, name, quantity, value) for quantity, value in values.items()]


def measure_layers(
    configs: Sequence[BackboneConfig], batch_size: int, image_size: int
) -> list[Row]:
    """Returns the numbers of the layers that are neither products nor attention.

    Each size is compiled once, though several models have it.
    """
    side = -(-image_size // 4)
    maps = {
        (side // 2**i, dim): config.mlp_ratio
        for config in configs
        for i, dim in enumerate(config.dims)
    }
    last = {config.dims[-1] for config in configs}
    rows = []
    for (side, dim), ratio in maps.items():
        rows += describe_depthwise(batch_size, side, ratio * dim)
    for side, dim in maps:
        if dim not in last:
            rows += describe_merging(batch_size, side, dim)
    return rows


def describe_merging(batch_size: int, side: int, dim: int) -> list[Row]:
    """Returns the numbers of the backward pass of a token merging."""
    program = compile_merging(batch_size, side, dim)
    scatters = [kernel for kernel in program.kernels if "scatter" in kernel.ops]
    values = {
        **describe_program(program),
        "scatters in float32": sum(k.type.startswith("f32") for k in scatters),
        "numbers per atomic": min(
            (width for k in scatters for width in measure_atomics(program, k)),
            default=0,
        ),
    }
    name = f"{side}x{side}x{dim}"
    return [Row("merging backward", name, q, value) for q, value in values.items()]


def describe_depthwise(batch_size: int, side: int, dim: int) -> list[Row]:
    """Returns the numbers of a depthwise convolution, forward and backward."""
    values = describe_program(compile_depthwise(batch_size, side, dim))
    # Forward reads and writes a map; backward reads two and writes one.
    values["minimum GB"] = 5 * 2 * batch_size * side**2 * dim / 1e9
    name = f"{side}x{side}x{dim}"
    return [Row("depthwise", name, quantity, x) for quantity, x in values.items()]


def describe_program(program: Program) -> dict[str, float]:
    """Returns what is worth knowing of any program, by quantity."""
    totals = hlo.add_up(program.kernels)
    return {
        "kernels": totals.kernels,
        "GB moved": totals.bytes_moved / 1e9,
        "scatters": _count_with("scatter", program.kernels),
        "compare-and-swap": sum(".cas." in text for text in program.ptx.values()),
        "grouped convolutions": _count_with("grouped-convolution", program.kernels),
    }


def measure_atomics(program: Program, kernel: hlo.Kernel) -> list[int]:
    """Returns how many numbers each atomic addition of a kernel adds at once.

    There are none where the GPU compares and swaps instead.
    """
    text = program.ptx.get(re.sub(r"[.\-]", "_", kernel.name), "")
    additions = re.findall(r"\b(?:atom|red)\.\S*\badd\S*", text)
    widths = [re.search(r"\.v(\d)", addition) for addition in additions]
    return [int(width[1]) if width else 1 for width in widths]


def list_heaviest(kernels: Sequence[hlo.Kernel], number: int) -> str:
    """Returns a line for each of the kernels that move most, and where it is from."""
    heaviest = sorted(kernels, key=lambda kernel: -kernel.bytes_moved)[:number]
    return "\n".join(
        f"{kernel.count} x {kernel.bytes_read / 1e9:.2f} GB read, "
        f"{kernel.bytes_written / 1e9:.2f} written, {kernel.kind}, "
        f"{_largest_array(kernel.type)}, {_place(kernel)}"
        for kernel in heaviest
    )


def _largest_array(text: str) -> str:
    return max(re.findall(r"\w+\[[\d,]*\]", text), key=count_bytes)


def _place(kernel: hlo.Kernel) -> str:
    """Returns the innermost line of the project, and what JAX calls the operation."""
    for path, line, function in kernel.frames:
        if "/litv2_jax/" in path:
            file = path.rsplit("/litv2_jax/", 1)[1]
            return f"{file}:{line} {function}, {kernel.source}"
    return kernel.source


def _count_with(op: str, kernels: Sequence[hlo.Kernel]) -> int:
    return sum(kernel.count for kernel in kernels if op in kernel.ops)
