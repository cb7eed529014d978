"""Time of each heavy part of LITv2 alone, by the implementation in use and by others.

The first implementation of a part is the one that `litv2_jax` uses on this platform;
ratios are to its time, above one where another is slower. They take turns, after a
check that they agree. Implementations of a derivative share their forward pass: how far
its ratio is from one is the noise of the measurement.

On a CPU the grouped convolution is left out above 14 x 14, where it takes seconds;
cuDNN's attention needs a GPU and bfloat16. Times are those of all cores on a CPU, which
others at work on the machine distort little, and the time that passes elsewhere.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from benchmarks import results, timing
from benchmarks.arguments import positive
from benchmarks.layers.cases import (
    FORWARD,
    PARTS,
    SIZES,
    Arrays,
    Case,
    Implementation,
)
from benchmarks.results import Row
from litv2_jax import compiler_options
from litv2_jax.ops.implementations import use_implementation
from litv2_jax.settings import DTYPES

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
# Calls that are timed together take at least this long.
SECONDS_PER_TURN = 0.02
# Of the largest value, in float32.
LARGEST_DIFFERENCE = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument(
        "--rounds", type=positive, default=15, help="medians are taken of so many"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--output", type=Path, default=results.ROOT / "benchmarks/results/layers.json"
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    description = results.describe_run(PACKAGES)
    description["device"] = jax.devices()[0].device_kind
    for name in ("dtype", "batch_size", "rounds"):
        description[name] = getattr(options, name)
    rows = measure(options.parts, options.batch_size, options.rounds, options.dtype)
    results.write_json(rows, description, options.output)
    results.print_report(rows, description)


def measure(
    parts: Sequence[str],
    batch_size: int,
    rounds: int,
    dtype: str = "float32",
    *,
    sizes: Mapping[str, Sequence[tuple[Any, ...]]] = SIZES,
) -> list[Row]:
    """Returns all rows.

    Args:
        parts: Keys of `PARTS`.
        batch_size: Number of maps or images.
        rounds: How often each implementation has its turn.
        dtype: float32 or bfloat16.
        sizes: By part, what its function takes after the first argument.

    Raises:
        RuntimeError: If implementations compute different things.
    """
    cases = [
        (part, PARTS[part](Arrays(batch_size, dtype), *size))
        for part in parts
        for size in sizes[part]
    ]
    rows = []
    # A GPU's programs are compiled side by side; on a CPU they would be in the way.
    workers = 1 if jax.default_backend() == "cpu" else results.count_cores()
    with ThreadPoolExecutor(workers) as pool:
        compile_one_case = functools.partial(compile_case, dtype=dtype)
        prepared = pool.map(compile_one_case, [case for _, case in cases])
        if workers > 1:
            prepared = list(prepared)
        for (part, case), programs in tqdm(
            zip(cases, prepared, strict=True), total=len(cases), leave=False
        ):
            rows += measure_case(part, case, programs, rounds, dtype)
    return rows


class Programs(NamedTuple):
    """What is compiled for a case.

    Attributes:
        timed: Calls by implementation, by direction.
        checked: Those of the last direction, in float32 with exact products.
    """

    timed: dict[str, dict[str, Callable[[], Any]]]
    checked: dict[str, Callable[[], Any]]


def compile_case(case: Case, dtype: str) -> Programs:
    """Compiles all implementations of one part at one size."""
    last = case.directions[-1]
    timed = {name: compile_all(case, name) for name in case.directions}
    checked = timed[last]
    if dtype == "float32" and jax.default_backend() != "cpu":
        # A GPU's default for float32 has three digits, too few to tell a fault.
        with jax.default_matmul_precision("highest"):
            checked = compile_all(case, last)
    return Programs(timed, checked)


def measure_case(
    part: str, case: Case, programs: Programs, rounds: int, dtype: str
) -> list[Row]:
    """Checks and times the implementations of one part at one size."""
    rows = []
    for name, difference in compare(programs.checked).items():
        if dtype == "float32" and difference > LARGEST_DIFFERENCE:
            used = next(iter(case.implementations))
            raise RuntimeError(
                f"{part}, {case.name}: {name!r} and {used!r} differ "
                f"by {difference:.2g} of the largest value, and {LARGEST_DIFFERENCE:g} "
                "would be rounding: one of them is wrong."
            )
        rows.append(Row(part, f"{case.name}: {name}", "difference", difference))
    for direction, functions in programs.timed.items():
        for name, quantities in time_all(functions, rounds).items():
            for quantity, value in quantities.items():
                label = f"{direction}: {quantity}"
                rows.append(Row(part, f"{case.name}: {name}", label, value))
    return rows


def compile_all(case: Case, direction: str) -> dict[str, Callable[[], Any]]:
    """Compiles a pass by every implementation of a case."""
    return {
        name: compile_one(implementation, case.arguments, direction)
        for name, implementation in case.implementations.items()
    }


def compile_one(
    implementation: Implementation, arguments: tuple[Any, ...], direction: str
) -> Callable[[], Any]:
    """Compiles a pass; what returns may still be at work on its results.

    With backward, it is the output and the gradients of all arguments.
    """

    def run_backward(cotangent: jax.Array, *arguments: Any):
        y, backward = jax.vjp(implementation.function, *arguments)
        return y, backward(cotangent)

    # Both are new functions: JAX would remember an old one with its former choice.
    def run_forward(*arguments: Any):
        return implementation.function(*arguments)

    with use_implementation(**implementation.choices):
        if direction == FORWARD:
            compiled = _compile(run_forward, *arguments)
            return lambda: compiled(*arguments)
        y: Any = jax.eval_shape(run_forward, *arguments)
        # Gradients of a sum would be simpler to compute than those of a network.
        cotangent = jax.random.normal(jax.random.key(0), y.shape, y.dtype)
        compiled = _compile(run_backward, cotangent, *arguments)
    return lambda: compiled(cotangent, *arguments)


def compare(programs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Returns how far each result is from that of the first program.

    The largest difference within an array, relative to its largest value.
    """
    found = {
        name: [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(program())]
        for name, program in programs.items()
    }
    used = next(iter(found.values()))
    return {
        name: max(map(_find_difference, leaves, used)) for name, leaves in found.items()
    }


def time_all(
    functions: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, dict[str, float]]:
    """Returns median, spread and ratio to the first of each function."""
    on_cpu = jax.default_backend() == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    turns, calls = {}, {}
    for name, function in functions.items():
        jax.block_until_ready(function())
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken = time.perf_counter() - start
        calls[name] = 1 + int(SECONDS_PER_TURN / taken)
        turns[name] = lambda function=function, n=calls[name]: _call(function, n)
    times = timing.time_interleaved(turns, rounds, clock=clock)
    times = {name: seconds / calls[name] for name, seconds in times.items()}
    used = next(iter(times.values()))
    found = {}
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        found[name] = {
            "ms": 1000 * median,
            "spread %": 100 * (high - low) / median,
            "ratio": statistics.median((seconds / used).tolist()),
        }
    return found


def _compile(function: Callable[..., Any], *arguments: Any) -> Any:
    jitted = jax.jit(function, compiler_options=compiler_options())
    return jitted.lower(*arguments).compile()


def _find_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns infinity where either is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.inf
    largest = max(float(np.abs(other).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(one - other).max()) / largest


def _call(function: Callable[[], Any], calls: int) -> None:
    """Calls a function so often and waits for the last result."""
    result = None
    for _ in range(calls):
        result = function()
    jax.block_until_ready(result)
