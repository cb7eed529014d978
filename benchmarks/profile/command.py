"""Where the time of a model goes on a CPU, here and in PyTorch, by kind of operation.

Run it on one core (`taskset -c 0` on Linux): of kernels side by side, one that waits
counts as one that works.
"""

import argparse
import collections
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax

from benchmarks import hlo, results
from benchmarks.model.command import PACKAGES
from benchmarks.programs import WORK, Case
from benchmarks.results import Row
from benchmarks.torch_peer.peer import CONFIGURATIONS, TorchPeer
from benchmarks.work import PreparedWork, find_size
from litv2_jax import list_models

PRODUCTS = "matrix products"
TORCH_PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")
# Rarer kinds are added up.
NUM_KINDS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    names = list_models("classification")
    parser.add_argument("--variant", default="litv2_s", choices=names, metavar="NAME")
    parser.add_argument("--work", default="forward", choices=WORK)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--calls", type=int, default=5, help="to take the mean of")
    parser.add_argument(
        "--against-torch", choices=CONFIGURATIONS, help="also profile PyTorch"
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python that has PyTorch"
    )
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/profile.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    if jax.default_backend() != "cpu":
        sys.exit(
            f"python -m benchmarks profile: this is for a CPU, not a "
            f"{jax.default_backend()}; set JAX_PLATFORMS=cpu, or use TensorBoard's "
            "profiler."
        )
    name = options.variant
    case = Case(name, options.work, options.batch_size, find_size(name), "float32")
    part = f"{case.work}, batch {case.batch_size}"
    description = results.describe_run(PACKAGES)
    rows = _summarize(f"{part}, litv2_jax", profile(PreparedWork(case), options.calls))
    if options.against_torch:
        with TorchPeer(options.torch_python) as peer:
            peer.prepare(name, case.describe_to_torch(options.against_torch))
            times = peer.profile(name, options.calls)
        rows += _summarize(f"{part}, {options.against_torch}", _join_products(times))
    results.write_json(rows, description, options.output)
    results.print_report(rows, description)


def profile(work: PreparedWork, calls: int) -> dict[str, float]:
    """Returns the milliseconds that each kind of kernel takes in a call."""
    kinds = {x.name: find_kind(x) for x in hlo.list_kernels(work.program)}
    times = collections.defaultdict[str, float](float)
    for name, milliseconds in profile_kernels(work, calls).items():
        if kind := kinds.get(name):
            times[kind] += milliseconds
    return dict(times)


def profile_kernels(work: PreparedWork, calls: int) -> dict[str, float]:
    """Returns the milliseconds that each kernel takes in a call, by its name.

    On a GPU, libraries' kernels have their own names, and those of XLA underscores for
    dots; what the host does meanwhile is left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work.time(calls)
        path = next(Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_file(str(path))
    planes = list(data.planes)
    if jax.default_backend() == "gpu":
        planes = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    times = collections.defaultdict[str, float](float)
    for plane in planes:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams or lines:
            for event in line.events:
                times[event.name] += event.duration_ns / 1e6 / calls
    return dict(times)


def find_kind(kernel: hlo.Kernel) -> str:
    """Returns what a kernel does."""
    if "dot" in kernel.ops:
        return PRODUCTS
    if kernel.kind.endswith("fusion"):
        # XLA names it after what it does last.
        return re.sub(r"[.\d]+$", "", kernel.name)
    return kernel.kind


def _join_products(times: Mapping[str, float]) -> dict[str, float]:
    joined = collections.defaultdict[str, float](float)
    for name, milliseconds in times.items():
        joined[PRODUCTS if name in TORCH_PRODUCTS else name] += milliseconds
    return dict(joined)


def _summarize(part: str, times: Mapping[str, float]) -> list[Row]:
    """Returns a row for each of the kinds that take longest, for the rest, and all."""
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])[:NUM_KINDS]
    rest = total - sum(milliseconds for _, milliseconds in longest)
    return [
        row
        for kind, milliseconds in [*longest, ("all others", rest), ("all", total)]
        for row in (
            Row(part, kind, "ms", milliseconds),
            Row(part, kind, "%", 100 * milliseconds / total),
        )
    ]
