"""Images/s, FLOPs and memory of one attention layer: HiLo beside those it replaces.

Published: the protocol of the paper's table 10, in float32 with 64 random maps of
14 x 14 x 768 and 12 heads: passes under one clock, the first included (30 there; 10 by
default here, which spares a CPU minutes). PyTorch recorded the graph for gradients; the
nearest in JAX is a pass that also returns what the gradients of the parameters need
(`jax.vjp`). Compiling is left out. Compare ratios to MSA: the machines differ.

Fair: layers take turns after a warm-up, without and with a backward pass (of parameters
and input); medians and quartiles. Settings: the same for alphas and windows of HiLo;
that with windows of one is MSA as HiLo computes it, which may be faster on a GPU.
Resolution: all layers on growing maps, with the memory that the compiled program needs
(arguments, results and temporaries). That of MSA grows with the fourth power of the
side: 3.8 GB for four maps of 56 x 56 in float32, 16 times as much for those of 112.

Wall time: others at work on the machine distort it. Multiplications of float32 have the
default precision of the device, which on NVIDIA's GPUs is TF32, as in the original.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from tqdm import tqdm

from benchmarks import plot, results, timing
from benchmarks.arguments import positive
from benchmarks.attention.layers import (
    LAYERS,
    PUBLISHED,
    CreateLayer,
    count_flops,
    count_hilo_flops,
    of_any_size,
)
from benchmarks.attention.programs import (
    DIM,
    NUM_HEADS,
    Program,
    compile_pass,
    pass_forward,
    pass_forward_and_backward,
    pass_forward_recording,
    run_measuring_memory,
)
from benchmarks.plot import Panel
from benchmarks.results import Row
from litv2_jax.models.hilo import HiLo
from litv2_jax.settings import DTYPES

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
PARTS = ("published", "fair", "settings", "resolution")
SIDE = 14
PUBLISHED_BATCH_SIZE = 64
# Alpha and window size. Windows of one position leave only Lo-Fi, which then is MSA;
# those of 4 do not divide 14.
SETTINGS = [(alpha, 2) for alpha in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)]
SETTINGS += [(0.9, window_size) for window_size in (1, 4, 7)]
# Per position, what grows with their number stays level and the rest stands out.
PANELS = (
    Panel(
        "resolution: images/s",
        "Speed (thousand positions per second)",
        "linear",
        lambda images, positions: images * positions / 1000,
    ),
    Panel(
        "resolution: MFLOPs",
        "Cost (million FLOPs per position)",
        "linear",
        lambda megaflops, positions: megaflops / positions,
    ),
    Panel(
        "resolution: MB",
        "Memory of the batch (MB)",
        "log",
        lambda megabytes, positions: megabytes,
    ),
)
# Of maps so large that a round takes long.
LEAST_ROUNDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS])
    parser.add_argument(
        "--passes", type=positive, default=10, help="of the published part"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=2, help="of all but the published part"
    )
    parser.add_argument(
        "--rounds", type=positive, default=9, help="medians are taken of so many"
    )
    parser.add_argument(
        "--sizes",
        type=positive,
        nargs="+",
        default=[14, 28, 56],
        help="sides of the maps that grow",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--output",
        type=Path,
        default=results.ROOT / "benchmarks/results/attention.json",
        help="the picture is put beside it",
    )


def run(options: argparse.Namespace) -> None:
    """Measures, prints, writes and draws."""
    description = results.describe_run(PACKAGES)
    description["device"] = jax.devices()[0].device_kind
    for name in ("dtype", "batch_size", "rounds", "passes"):
        description[name] = getattr(options, name)
    rows = measure(options)
    results.write_json(rows, description, options.output)
    if "resolution" in options.parts:
        plot.draw_lines(options.output, PANELS, describe_panels(description))
    results.print_report(rows, description)


def describe_panels(run: Mapping[str, Any]) -> str:
    """Returns the title of the picture of a run."""
    where = f"{run['device']}, {run['dtype']}, batch {run['batch_size']}"
    return f"One attention layer of {DIM} channels and {NUM_HEADS} heads: {where}"


def measure(options: argparse.Namespace) -> list[Row]:
    """Returns all rows of the parts that are asked for."""
    layers = {name: LAYERS[name] for name in options.layers}
    dtype = jnp.dtype(options.dtype)
    rows = []
    if "published" in options.parts:
        rows += [*measure_published(layers, options.passes), *list_published()]
    if "fair" in options.parts:
        flops = {name: _count_flops(name, SIDE) for name in layers}
        rows += measure_in_turns(
            "fair", layers, flops, options.batch_size, options.rounds, dtype
        )
    if "settings" in options.parts:
        rows += measure_settings(options.batch_size, options.rounds, dtype)
    if "resolution" in options.parts:
        rows += measure_resolution(layers, options, dtype)
    return rows


def measure_published(layers: Mapping[str, CreateLayer], passes: int) -> list[Row]:
    """Times so many passes of each layer by the published protocol."""
    speeds, parameters = {}, {}
    for name, create in tqdm(layers.items(), desc="published protocol", leave=False):
        program = compile_pass(
            create, pass_forward_recording, SIDE, PUBLISHED_BATCH_SIZE, jnp.float32
        )
        start = time.perf_counter()
        for _ in range(passes):
            program.run()
        seconds = time.perf_counter() - start
        speeds[name] = PUBLISHED_BATCH_SIZE * passes / seconds
        parameters[name] = program.parameters
    rows = []
    for name, speed in speeds.items():
        values = {
            "parameters (M)": parameters[name] / 1e6,
            "MFLOPs": _count_flops(name, SIDE) / 1e6,
            "images/s": speed,
        }
        if "MSA" in speeds:
            values["ratio to MSA"] = speed / speeds["MSA"]
        rows += [Row("published protocol", name, *item) for item in values.items()]
    return rows


def list_published() -> list[Row]:
    """Returns the published numbers, which were taken on other machines."""
    part, msa = "published table (RTX 3090, i9-10900X)", PUBLISHED["MSA"]
    rows = []
    for name, found in PUBLISHED.items():
        rows.append(Row(part, name, "parameters (M)", found.parameters))
        rows.append(Row(part, name, "MFLOPs", found.flops))
        rows.append(Row(part, name, "CPU: images/s", found.cpu))
        rows.append(Row(part, name, "CPU: ratio to MSA", found.cpu / msa.cpu))
        rows.append(Row(part, name, "GPU: images/s", found.gpu))
        rows.append(Row(part, name, "GPU: ratio to MSA", found.gpu / msa.gpu))
    return rows


def measure_in_turns(
    part: str,
    layers: Mapping[str, CreateLayer],
    flops: Mapping[str, float],
    batch_size: int,
    rounds: int,
    dtype: DTypeLike,
) -> list[Row]:
    """Times layers in turns, forward alone and with backward.

    Args:
        part: Name of the rows.
        layers: By name.
        flops: Of the same names.
        batch_size: Maps of 14 x 14.
        rounds: How often.
        dtype: Type of the computation.
    """
    directions = {
        "forward": pass_forward,
        "with backward": pass_forward_and_backward,
    }
    programs = {
        (name, quantity): compile_pass(create, direction, SIDE, batch_size, dtype)
        for name, create in tqdm(layers.items(), desc=f"compile {part}", leave=False)
        for quantity, direction in directions.items()
    }
    seconds = _time({f"{n}, {q}": p for (n, q), p in programs.items()}, rounds)
    rows = []
    for name in layers:
        parameters = programs[name, "forward"].parameters
        rows.append(Row(part, name, "parameters (M)", parameters / 1e6))
        rows.append(Row(part, name, "MFLOPs", flops[name] / 1e6))
        for quantity in directions:
            speeds = batch_size / seconds[f"{name}, {quantity}"]
            low, median, high = np.percentile(speeds, (25, 50, 75)).tolist()
            rows.append(Row(part, name, f"{quantity}: images/s", median))
            rows.append(Row(part, name, f"{quantity}: lower quartile", low))
            rows.append(Row(part, name, f"{quantity}: upper quartile", high))
    return rows


def measure_settings(batch_size: int, rounds: int, dtype: DTypeLike) -> list[Row]:
    """Times HiLo at several alphas and window sizes."""
    layers, flops = {}, {}
    for alpha, window_size in SETTINGS:
        name = f"alpha {alpha:g}, window {window_size}"
        settings = {"alpha": alpha, "window_size": window_size}
        layers[name] = of_any_size(HiLo, **settings)
        flops[name] = count_hilo_flops(DIM, NUM_HEADS, (SIDE, SIDE), **settings)
    return measure_in_turns("HiLo", layers, flops, batch_size, rounds, dtype)


def measure_resolution(
    layers: Mapping[str, CreateLayer], options: argparse.Namespace, dtype: DTypeLike
) -> list[Row]:
    """Times all layers forward on maps of each size; says what memory they need."""
    speeds, flops, memory = [], [], []
    for side in options.sizes:
        size, programs = f"{side} x {side}", {}
        for name, create in tqdm(layers.items(), desc=f"compile {size}", leave=False):
            program = compile_pass(
                create, pass_forward, side, options.batch_size, dtype
            )
            programs[name] = program
            megaflops = _count_flops(name, side) / 1e6
            megabytes = run_measuring_memory(program) / 1e6
            flops.append(Row("resolution: MFLOPs", name, size, megaflops))
            memory.append(Row("resolution: MB", name, size, megabytes))
        rounds = max(LEAST_ROUNDS, options.rounds * SIDE**2 // side**2)
        seconds = _time(programs, min(rounds, options.rounds))
        for name, taken in seconds.items():
            speed = options.batch_size / float(np.median(taken))
            speeds.append(Row("resolution: images/s", name, size, speed))
    return [*speeds, *flops, *memory]


def _time(programs: Mapping[str, Program], rounds: int) -> dict[str, np.ndarray]:
    """Returns seconds [rounds] of each program, after a warm-up."""
    for program in programs.values():
        program.run()
    functions = {name: program.run for name, program in programs.items()}
    return timing.time_interleaved(functions, rounds, clock=time.perf_counter)


def _count_flops(name: str, side: int) -> float:
    return count_flops(name, DIM, NUM_HEADS, (side, side))
