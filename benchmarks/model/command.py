"""Images per second of whole models, forward and in training, and against PyTorch.

Everything that is compared takes turns, a round after the other; figures are medians
over the rounds. `--published` times as the original's `throughput` does: 50 passes to
warm up, then 30 timed together.
"""

import argparse
import contextlib
import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from benchmarks import plot, results
from benchmarks.programs import (
    DETECTION,
    DETECTION_SIZE,
    SEGMENTATION,
    WORK,
    Case,
)
from benchmarks.results import Row
from benchmarks.torch_peer.peer import CONFIGURATIONS, TorchPeer
from benchmarks.work import PreparedWork, describe_model, find_size
from litv2_jax import list_models
from litv2_jax.settings import DTYPES

OURS = "litv2_jax"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
PUBLISHED_WARM_UP, PUBLISHED_PASSES = 50, 30
# Calls that are timed together take at least this long.
SECONDS_PER_TURN = 0.2
PUBLISHED_PART = "published: RTX 3090, batch 64"
# The README of the original code: images/s, MB of training and inference, top-1.
PUBLISHED = {
    "litv2_s": (1471, 5100, 1200, 82.0),
    "litv2_m": (812, 8800, 1400, 83.3),
    "litv2_b": (602, 12200, 2100, 83.6),
    "litv2_b_384": (198, 35800, 4600, 84.7),
}
# What is timed: returns the seconds of one call, that pass and of all cores.
Clock = Callable[[int], dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["litv2_s", "litv2_m", "litv2_b"],
        choices=[*list_models(), *SEGMENTATION, *DETECTION],
        metavar="NAME",
    )
    parser.add_argument("--work", nargs="+", default=["forward"], choices=WORK)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--image-size",
        type=int,
        default=0,
        help="pixels; 0 is that of the variant, 224, 384 or 512",
    )
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--published", action="store_true", help="also by the original's protocol"
    )
    parser.add_argument(
        "--against-torch",
        nargs="*",
        choices=CONFIGURATIONS,
        metavar="CONFIGURATION",
        help=f"also run PyTorch: {', '.join(CONFIGURATIONS)}; all if none is named",
    )
    parser.add_argument(
        "--without-options",
        action="store_true",
        help="also run this code without litv2_jax.compiler_options()",
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python that has PyTorch"
    )
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/model.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints, writes and draws."""
    detectors = sorted({*options.variants} & {*DETECTION})
    if detectors and (options.against_torch is not None or options.image_size):
        sys.exit(
            f"python -m benchmarks model: {', '.join(detectors)} can be timed at "
            f"{DETECTION_SIZE[0]} x {DETECTION_SIZE[1]} pixels and without PyTorch "
            "alone; leave out --against-torch and --image-size."
        )
    dense = sorted({*options.variants} & {*SEGMENTATION})
    if dense and (options.against_torch is not None or "train" in options.work):
        sys.exit(
            f"python -m benchmarks model: {', '.join(dense)} can be timed forward and "
            "without PyTorch alone; leave out --against-torch and --work train."
        )
    description = results.describe_run(PACKAGES)
    description["device"] = jax.devices()[0].device_kind
    cases = [
        Case(
            variant,
            work,
            batch_size,
            options.image_size or find_size(variant),
            options.dtype,
        )
        for variant in options.variants
        for work in options.work
        for batch_size in options.batch_sizes
    ]
    rows = [row for name in options.variants for row in describe_model(name)]
    for case in cases:
        rows += measure(case, options, description)
        # Whatever happens to the next case, this one is kept.
        results.write_json(rows, description, options.output)
    rows += _list_published(options.variants)
    results.write_json(rows, description, options.output)
    plot.draw_bars(options.output)
    results.print_report(rows, description)


def measure(
    case: Case, options: argparse.Namespace, description: dict[str, Any]
) -> list[Row]:
    """Times one piece of work here and, if asked to, in PyTorch."""
    ours = PreparedWork(case)
    facts: dict[str, dict[str, float | None]] = {}
    facts[OURS] = {"compile s": ours.compile_seconds, "peak MB": ours.peak_megabytes}
    clocks: dict[str, Clock] = {OURS: ours.time}
    if options.without_options:
        name = f"{OURS} without options"
        plain = PreparedWork(case, with_options=False)
        facts[name] = {"compile s": plain.compile_seconds, "peak MB": None}
        clocks[name] = plain.time
    with contextlib.ExitStack() as stack:
        for name in _list_peers(options):
            # One process each, so that one's memory is not another's.
            peer = stack.enter_context(TorchPeer(options.torch_python))
            description.update({f"torch {k}": v for k, v in peer.describe().items()})
            facts[f"torch {name}"] = prepare_peer(peer, name, case)
            clocks[f"torch {name}"] = functools.partial(peer.time, name)
        times = take_turns(clocks, options.rounds)
    rows = summarize(case, case.part, times, facts)
    if options.published:
        ours.time(PUBLISHED_WARM_UP)
        seconds = ours.time(PUBLISHED_PASSES)["seconds"]
        speed = case.batch_size / seconds
        rows.append(Row(case.part, case.variant, "images/s, 30 passes", speed))
    return rows


def _list_peers(options: argparse.Namespace) -> Sequence[str]:
    """Returns the configurations of PyTorch to run."""
    if options.against_torch is None:
        return ()
    return options.against_torch or CONFIGURATIONS


def prepare_peer(peer: TorchPeer, name: str, case: Case) -> dict[str, float | None]:
    """Has PyTorch build and warm up the same work; returns what that took."""
    reply = peer.prepare(name, case.describe_to_torch(name))
    peak = reply["peak_bytes"]
    return {
        "compile s": reply["prepare_seconds"],
        "peak MB": None if peak is None else peak / 1e6,
    }


def take_turns(
    clocks: dict[str, Clock], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Returns the times of all rounds."""
    calls = {}
    for name, clock in clocks.items():
        clock(1)
        calls[name] = max(1, round(SECONDS_PER_TURN / clock(1)["seconds"]))
    times: dict[str, list[dict[str, float]]] = {name: [] for name in clocks}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, clock in clocks.items():
            # Whoever went before has taken the caches, and the memory of large pages.
            clock(1)
            times[name].append(clock(calls[name]))
    return times


def summarize(
    case: Case,
    part: str,
    times: dict[str, list[dict[str, float]]],
    facts: dict[str, dict[str, float | None]],
) -> list[Row]:
    """Medians; what others take is also given as a multiple of what this takes."""
    rows = []
    for name, measured in times.items():
        label = case.variant if name == OURS else f"{case.variant}: {name}"
        rows += describe_times(part, label, case.batch_size, measured, facts[name])
        if name != OURS:
            rows += compare_times(part, label, measured, times[OURS])
    return rows


def describe_times(
    part: str,
    label: str,
    batch_size: int,
    times: Sequence[Mapping[str, float]],
    facts: Mapping[str, float | None],
) -> list[Row]:
    """Returns images/s, milliseconds of a call and spread, and the facts there are.

    Medians over rounds.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    seconds = np.array([x["seconds"] for x in times])
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return [
        Row(part, label, "images/s", batch_size / middle),
        Row(part, label, "ms", 1000 * middle),
        Row(part, label, "spread %", 100 * (high - low) / middle),
        *(Row(part, label, *item) for item in known.items()),
    ]


def compare_times(
    part: str,
    label: str,
    times: Sequence[Mapping[str, float]],
    ours: Sequence[Mapping[str, float]],
) -> list[Row]:
    """Returns times as multiples of ours in the same round: medians over rounds."""
    rows = []
    for quantity, key in (("ratio", "seconds"), ("CPU ratio", "cpu_seconds")):
        ratios = [x[key] / y[key] for x, y in zip(times, ours, strict=True)]
        rows.append(Row(part, label, quantity, statistics.median(ratios)))
    return rows


def _list_published(variants: Sequence[str]) -> list[Row]:
    quantities = ("images/s", "train peak MB", "forward peak MB", "top-1 %")
    return [
        Row(PUBLISHED_PART, name, quantity, value)
        for name in variants
        if name in PUBLISHED
        for quantity, value in zip(quantities, PUBLISHED[name], strict=True)
    ]
