"""CPU time of pipelines, which have processes of their own."""

import contextlib
import os
import time
from typing import Any

import grain
import numpy as np

from litv2_jax.data import pipeline

BATCH_SIZE = 32
IMAGE_SIZE = 224


def time_pipeline(source: Any, transform: Any, workers: int) -> dict[str, float]:
    """Returns the seconds per image that pass, and that all processes compute."""
    batches = pipeline.train_batches(
        _Enlarged(source),
        transform,
        batch_size=BATCH_SIZE,
        seed=0,
        start_step=0,
        num_workers=workers,
        process_index=0,
        process_count=1,
    )
    num_batches = 16 * max(workers, 1)
    with contextlib.closing(iter(batches)) as iterator:
        # What was made ahead, before anyone waited for it, is not counted.
        for _ in range(num_batches // 2):
            next(iterator)
        wall, cpu = time.perf_counter(), time.process_time()
        clocks = [_find_clock(next(iterator)) for _ in range(num_batches)]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        # Each worker makes every n-th batch; one more of each closes its last span.
        clocks += [_find_clock(next(iterator)) for _ in range(workers)]
    for process in {process for process, _ in clocks} - {os.getpid()}:
        times = [clock for each, clock in clocks if each == process]
        cpu += times[-1] - times[0]
    images = num_batches * BATCH_SIZE
    return {"wall": wall / images, "cpu": cpu / images}


class Clocked(grain.transforms.RandomMap):
    """Notes in each result which process made it, and its CPU time until then."""

    def __init__(self, transform: grain.transforms.RandomMap):
        self._transform = transform

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the arrays of the transform, `process` and `clock`."""
        arrays: Any = self._transform.random_map(element, rng)
        return {**arrays, **_read_clock()}


class Ready(grain.transforms.RandomMap):
    """Returns pixels that are there already."""

    def __init__(self):
        self._pixels = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Returns an image, `process` and `clock`."""
        return {"image": self._pixels, "label": np.int32(0), **_read_clock()}


class _Enlarged:
    """A source again and again, until it has as many records as ImageNet.

    Grain takes 0.4 ms to find a place in the shuffled order of a hundred records, and
    0.02 ms among a million.
    """

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return 1_281_167

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[index % len(self._source)]


def _read_clock() -> dict[str, Any]:
    return {"process": np.int32(os.getpid()), "clock": np.float64(time.process_time())}


def _find_clock(batch: dict[str, np.ndarray]) -> tuple[int, float]:
    """Returns which process made a batch, and its CPU time when it was done."""
    return int(batch["process"][0]), float(batch["clock"].max())
