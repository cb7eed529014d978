"""All that is worth knowing of a machine with NVIDIA GPUs, in one go.

Runs the parity tests on the GPU, times the models forward and in training, against
PyTorch where it is installed, finds out where the time of a model goes, times the parts
of LITv2 by each of their implementations, and trains on one GPU and on all. Writes a
JSON file and a page of Markdown after each of these; what there was no time for is
named. `--rehearse` does the same with small shapes, on a CPU as well.

It needs neither Grain nor TFDS nor TensorBoard, and no network.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# JAX would take three quarters of the memory, of which PyTorch needs its share.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks import results
from benchmarks.arguments import positive
from benchmarks.card import devices, page, parity, parts
from benchmarks.card.ceilings import Ceilings, measure_ceilings
from benchmarks.card.models import Contest
from benchmarks.programs import WORK, Case
from benchmarks.results import Row
from benchmarks.torch_peer.peer import GPU_CONFIGURATIONS
from benchmarks.work import find_size

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# After which the tests that are left are given up.
PARITY_SECONDS = 300
SECTIONS = ("parity", "models", "profile", "parts", "devices")
# A small model, with which every section takes seconds.
SMALL = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 3, 6)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    names = ["litv2_s", "litv2_m", "litv2_b"]
    parser.add_argument("--variants", nargs="+", default=names, choices=names)
    parser.add_argument("--work", nargs="+", default=WORK, choices=WORK)
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[256, 64])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument(
        "--minutes", type=float, default=25, help="no section begins after that"
    )
    parser.add_argument(
        "--against-torch",
        nargs="*",
        default=("compile", "compile_channels_last", "eager"),
        choices=GPU_CONFIGURATIONS,
        metavar="CONFIGURATION",
        help=f"of {', '.join(GPU_CONFIGURATIONS)}; none if none is named; by default "
        "the compiled ones and eager",
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python that has PyTorch"
    )
    parser.add_argument("--rehearse", action="store_true", help="with small shapes")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        default=results.ROOT / "runs/card",
        help="for the compiled programs and what the tests say",
    )
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/card.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, writes after each section, and prints."""
    description = results.describe_run(PACKAGES)
    description["device"] = jax.devices()[0].device_kind
    description["devices"] = len(jax.devices())
    options.keep.mkdir(parents=True, exist_ok=True)
    report = Report(options.output, description, time.time() + 60 * options.minutes)
    small = options.rehearse
    ceilings = measure_ceilings(*((1, 64) if small else (2000, 8192)))
    report.add(_describe_ceilings(ceilings))
    for name, measure in _plan(options, ceilings, description):
        report.run(name, measure)
    results.print_report(report.rows, description)


class Report:
    """What has been measured so far, on disk."""

    def __init__(self, path: Path, description: dict[str, Any], deadline: float):
        """Starts with nothing.

        Args:
            path: Of the JSON file; the page stands beside it.
            description: Of the run.
            deadline: Time after which no section begins.
        """
        self.rows: list[Row] = []
        self._path, self._description, self._deadline = path, description, deadline

    def run(self, name: str, measure: Callable[[], list[Row]]) -> None:
        """Measures something, unless it is too late; its failure ends nothing else."""
        start = time.time()
        if start > self._deadline:
            self.add([Row("left out", f"{name}: no time was left", "s", 0)])
            return
        print(f"card: {name}, {time.strftime('%H:%M:%S')}", flush=True)
        try:
            found = measure()
        except Exception as error:
            traceback.print_exc()
            found = [Row("left out", f"{name}: {str(error)[:300]}", "s", 0)]
        self.add([*found, Row("seconds", name, "s", time.time() - start)])

    def add(self, rows: list[Row]) -> None:
        """Writes both files with some rows more."""
        self.rows += rows
        results.write_json(self.rows, self._description, self._path)
        page.write(self.rows, self._description, self._path.with_suffix(".md"))


def _plan(
    options: argparse.Namespace, ceilings: Ceilings, description: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yields the sections, the largest models last."""
    has_models = bool({"models", "profile"} & {*options.sections})
    for variant in options.variants:
        is_first = variant == options.variants[0]
        cases = _list_cases(options, variant)
        contest = Contest(cases, ceilings, options, description, with_plain=is_first)
        if has_models:
            yield f"{variant}: compile", contest.prepare
        tests = None
        if is_first and "parity" in options.sections:
            tests = parity.start(options.rehearse)
        if has_models and options.against_torch:
            yield f"{variant}: compile with PyTorch", contest.prepare_torch
        if tests:
            log = options.keep / "parity.txt"
            yield "parity", functools.partial(tests.wait, PARITY_SECONDS, log)
            tests.stop()
        if has_models:
            yield from _list_sections(contest, options.sections)
        contest.close()
        if is_first:
            yield from _list_others(options, cases[-1])


def _list_sections(
    contest: Contest, sections: Sequence[str]
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yields what is measured of the cases of one model."""
    for i, case in enumerate(contest.cases):
        name = f"{case.variant}: {case.part}"
        yield f"{name}, time", functools.partial(contest.measure, i)
        yield (
            f"{name}, roofline",
            functools.partial(contest.compare_with_ceilings, i),
        )
        if "profile" in sections:
            yield f"{name}, profile", functools.partial(contest.profile, i)


def _list_others(
    options: argparse.Namespace, case: Case
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yields what is measured once."""
    if "parts" in options.sections:
        for part in parts.SMALL:
            arguments = part, options.rounds
            is_small = options.rehearse
            yield (
                f"part: {part}",
                functools.partial(parts.measure, *arguments, is_rehearsal=is_small),
            )
    if "devices" in options.sections and len(jax.devices()) > 1:
        yield "devices", functools.partial(devices.measure, case, options.rounds)


def _list_cases(options: argparse.Namespace, variant: str) -> list[Case]:
    cases = [
        Case(variant, work, batch_size, find_size(variant), options.dtype)
        for batch_size in options.batch_sizes
        for work in options.work
    ]
    if not options.rehearse:
        return cases
    return [
        dataclasses.replace(case, image_size=32, batch_size=8, sizes=SMALL)
        for case in cases[: len(options.work)]
    ]


def _describe_ceilings(ceilings: Ceilings) -> list[Row]:
    part, name = "ceilings", "measured"
    return [
        Row(part, name, "copy, TB/s", ceilings.bandwidth / 1e12),
        Row(part, name, "bfloat16 product, TFLOP/s", ceilings.flops / 1e12),
    ]
