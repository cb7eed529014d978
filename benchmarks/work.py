"""A program of ours, compiled and ready to be timed."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
from flax import nnx

from benchmarks.memory import PeakMemory, release_unused
from benchmarks.programs import (
    DETECTION,
    DETECTION_SIZE,
    SEGMENTATION,
    Case,
    create_forward,
    create_step,
)
from benchmarks.results import Row
from litv2_jax import compiler, count_flops, create_model

# Enough for caches and clocks to settle.
WARM_UP = 3
# Options that are left out are so for all threads.
_CREATING = threading.Lock()


class PreparedWork:
    """A case, compiled and warm.

    Attributes:
        compile_seconds: To trace, lower and compile it.
        program: What came of it, as text.
        peak_megabytes: Of memory that it holds at most, with its arguments; None where
            the system does not tell.
    """

    def __init__(self, case: Case, *, with_options: bool = True):
        """Compiles and warms up.

        Args:
            case: The case to measure.
            with_options: Whether XLA is given `litv2_jax.compiler_options()`.
        """
        create = find_creator(case)
        choose = contextlib.nullcontext if with_options else _no_compiler_options
        with _CREATING, choose():
            function, arguments = create(case)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
        )
        del arguments
        start = time.perf_counter()
        self._compiled = function.lower(*shapes).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program = self._compiled.as_text()
        with PeakMemory() as memory:
            self._arguments = create(case)[1]
            self._is_step = case.work == "train"
            self._call_often(WARM_UP)
            # What it took to make the arguments is not part of the work.
            release_unused()
            memory.reset_peak()
            self._call_often(WARM_UP)
        on_cpu = jax.default_backend() == "cpu"
        size = memory.bytes if on_cpu else _read_planned_bytes(self._compiled)
        self.peak_megabytes = None if size is None else size / 1e6

    def time(self, calls: int) -> dict[str, float]:
        """Returns what one of so many calls takes: time that passes, and of all cores.

        Keys are `seconds` and `cpu_seconds`.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        self._call_often(calls)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"seconds": wall / calls, "cpu_seconds": cpu / calls}

    def _call_often(self, calls: int) -> None:
        result = None
        for _ in range(calls):
            result = self._compiled(*self._arguments)
            if self._is_step:
                # A training step overwrites the state it is given.
                self._arguments = (result[0], *self._arguments[1:])
        jax.block_until_ready(result)


def find_creator(case: Case) -> Callable[[Case], tuple[Any, tuple[Any, ...]]]:
    """Returns the function that makes the program of a case."""
    is_step = case.work == "train"
    if case.variant in DETECTION:
        # Needs packages that the machine of a GPU may lack.
        from benchmarks import detectors

        return detectors.create_detector_step if is_step else detectors.create_detection
    return create_step if is_step else create_forward


@contextlib.contextmanager
def _no_compiler_options() -> Iterator[None]:
    compiler._choose_options.cache_clear()
    with mock.patch.multiple(
        compiler, _CPU_OPTIONS={}, _CPU_BFLOAT16_OPTIONS={}, _GPU_OPTIONS={}
    ):
        yield
    compiler._choose_options.cache_clear()


def find_size(name: str) -> int:
    """Returns the shortest side of the images that a model was published for."""
    if name in DETECTION:
        return DETECTION_SIZE[0]
    if name in SEGMENTATION:
        return 512
    return 384 if name.endswith("_384") else 224


def describe_model(name: str) -> list[Row]:
    """Returns the sizes of a model."""
    size = find_size(name)
    model: Any = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    flops = count_flops(model, DETECTION_SIZE if name in DETECTION else size)
    return [
        Row("model", name, "pixels", size),
        Row("model", name, "parameters M", sum(x.size for x in leaves) / 1e6),
        Row("model", name, "GFLOPs", flops.corrected / 1e9),
        Row("model", name, "GFLOPs as published", flops.published / 1e9),
    ]


def _read_planned_bytes(compiled: Any) -> int:
    """Returns what XLA has planned for a program, its arguments and results.

    The peak that a GPU's allocator reports is that of all programs so far.
    """
    plan = compiled.memory_analysis()
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return total - plan.alias_size_in_bytes + plan.temp_size_in_bytes
