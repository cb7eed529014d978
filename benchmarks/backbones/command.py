"""LITv2-S in JAX beside backbones of its size in PyTorch: speed, size, accuracy.

Each model of timm takes turns with LITv2-S, a round after the other, and so does a
LITv2-S in PyTorch, which tells apart what the model and what the library does. `ratio`
is its time over that of LITv2-S in JAX in the same round, above 1 where LITv2-S is
faster; all figures are medians over the rounds. Weights are random; accuracies are
those that were published, none is measured.

timm is no dependency of this project: --torch-python names a Python that has PyTorch
and timm.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# JAX would take three quarters of a GPU's memory, of which PyTorch needs its share.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks import plot, results
from benchmarks.arguments import positive
from benchmarks.backbones.published import BACKBONES, OURS
from benchmarks.model.command import (
    Clock,
    compare_times,
    describe_times,
    prepare_peer,
    take_turns,
)
from benchmarks.programs import Case
from benchmarks.results import Row
from benchmarks.torch_peer.peer import GPU_CONFIGURATIONS, TorchPeer
from benchmarks.work import PreparedWork, describe_model
from litv2_jax.settings import DTYPES

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
IMAGE_SIZE = 224
# Our model, in a table and in a picture.
LABEL = f"{OURS}: litv2_jax"
TOP1 = "published top-1 %"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument(
        "--models",
        nargs="+",
        default=[*BACKBONES],
        choices=BACKBONES,
        metavar="NAME",
        help=f"in PyTorch, of {', '.join(BACKBONES)}; all by default",
    )
    parser.add_argument(
        "--configurations",
        nargs="+",
        default=("eager", "compile"),
        choices=GPU_CONFIGURATIONS,
        metavar="NAME",
        help=f"of PyTorch, of {', '.join(GPU_CONFIGURATIONS)}; eager and compile by "
        "default",
    )
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[8])
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        help="a Python that has PyTorch and timm",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=results.ROOT / "benchmarks/results/backbones.json",
        help="the picture is put beside it",
    )


def run(options: argparse.Namespace) -> None:
    """Measures, writes after each model, draws and prints."""
    description = results.describe_run(PACKAGES)
    description["device"] = jax.devices()[0].device_kind
    description["rounds"] = options.rounds
    description["published"] = {name: x.source for name, x in BACKBONES.items()}
    rows = []
    try:
        sizes = find_sizes(options, description)
        for batch_size in options.batch_sizes:
            contest = Contest(batch_size, sizes, options)
            for name in options.models:
                contest.measure(name)
                rows_so_far = [*rows, *contest.list_rows()]
                results.write_json(rows_so_far, description, options.output)
            rows += contest.list_rows()
    except RuntimeError as error:
        sys.exit(f"python -m benchmarks backbones: {error}")
    plot.draw_accuracy(options.output)
    results.print_report(rows, description)


def find_sizes(
    options: argparse.Namespace, description: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Returns accuracy, parameters and FLOPs of each model; says what PyTorch it is.

    Those of `LABEL` are counted by this package, the others' by PyTorch.

    Raises:
        RuntimeError: PyTorch or timm is missing.
    """
    with TorchPeer(options.torch_python) as peer:
        found = peer.describe()
        if "timm" not in found:
            raise RuntimeError(
                f"{options.torch_python} has no timm: pip install timm, or name a "
                "Python that has it with --torch-python."
            )
        description.update({f"torch {key}": value for key, value in found.items()})
        sizes = {name: _count(peer, name) for name in options.models}
    ours = {row.quantity: row.value for row in describe_model("litv2_s")}
    sizes[LABEL] = {key: ours[key] for key in ("parameters M", "GFLOPs")}
    return {
        name: {TOP1: BACKBONES[name.partition(":")[0]].top1, **size}
        for name, size in sizes.items()
    }


def _count(peer: TorchPeer, name: str) -> dict[str, float]:
    found = peer.count(BACKBONES[name].torch_name, IMAGE_SIZE)
    return {
        "parameters M": found["num_parameters"] / 1e6,
        "GFLOPs": found["multiply_adds"] / 1e9,
    }


class Contest:
    """LITv2-S in JAX, in turns with one model after the other."""

    def __init__(
        self,
        batch_size: int,
        sizes: dict[str, dict[str, float]],
        options: argparse.Namespace,
    ):
        """Compiles LITv2-S.

        Args:
            batch_size: Images of a call.
            sizes: What `find_sizes` returns.
            options: Of the command.
        """
        self._case = Case("litv2_s", "forward", batch_size, IMAGE_SIZE, options.dtype)
        self._sizes, self._options = sizes, options
        self._ours = PreparedWork(self._case)
        self._times: list[dict[str, float]] = []
        self._rows: list[Row] = []

    def measure(self, name: str) -> None:
        """Times LITv2-S and the configurations of a model in turns."""
        case = dataclasses.replace(self._case, variant=BACKBONES[name].torch_name)
        clocks: dict[str, Clock] = {LABEL: self._ours.time}
        facts = {}
        with contextlib.ExitStack() as stack:
            for way in self._options.configurations:
                # One process each, so that one's memory is not another's.
                peer = stack.enter_context(TorchPeer(self._options.torch_python))
                facts[way] = prepare_peer(peer, way, case)
                clocks[way] = functools.partial(peer.time, way)
            times = take_turns(clocks, self._options.rounds)
        ours = times.pop(LABEL)
        self._times += ours
        for way, measured in times.items():
            label = f"{name}: torch {way}"
            self._rows += self._describe(label, self._sizes[name], measured, facts[way])
            self._rows += compare_times(case.part, label, measured, ours)

    def list_rows(self) -> list[Row]:
        """Returns what has been measured so far; LITv2-S in JAX comes first."""
        facts = {
            "compile s": self._ours.compile_seconds,
            "peak MB": self._ours.peak_megabytes,
        }
        ours = self._describe(LABEL, self._sizes[LABEL], self._times, facts)
        return [*ours, *self._rows]

    def _describe(
        self,
        label: str,
        sizes: Mapping[str, float],
        times: Sequence[Mapping[str, float]],
        facts: Mapping[str, float | None],
    ) -> list[Row]:
        part, batch_size = self._case.part, self._case.batch_size
        return [
            *(Row(part, label, *item) for item in sizes.items()),
            *describe_times(part, label, batch_size, times, facts),
        ]
