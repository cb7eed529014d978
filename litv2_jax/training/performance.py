"""Measures how fast a run trains."""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

# Dense bfloat16 products with float32 sums, in TFLOP/s, from NVIDIA's data sheets, by
# the first of these names that the kind of a device contains.
_PEAK_TFLOPS = {
    "H200": 989.0,
    "GH200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


Item = TypeVar("Item")


class Performance:
    """The rate of the steps since the last `restart`.

    Evaluation and saving do not count if `restart` is called after them, nor does the
    compilation of the first step.
    """

    def __init__(self, batch_size: int):
        """Starts the clock.

        Args:
            batch_size: Images of a step, over all devices.
        """
        self._flops_per_step = 0.0
        self._is_compiled = False
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Forgets the steps so far and starts the clock."""
        self._num_steps = 0
        self._seconds_waiting = 0.0
        self._start = time.perf_counter()

    def wait_for(self, batches: Iterator[Item]) -> Item:
        """Returns the next batch; the time until then counts as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self._seconds_waiting += time.perf_counter() - start
        return batch

    def run(self, step: Any, *arguments: Any) -> Any:
        """Runs a step from `jax.jit`; counts it unless it is the first.

        The first one is compiled, which takes longer than many steps.
        """
        if self._is_compiled:
            self._num_steps += 1
            return step(*arguments)
        self._flops_per_step = _count_flops(step, *arguments)
        results = step(*arguments)
        self._is_compiled = True
        self.restart()
        return results

    def result(self) -> dict[str, float]:
        """Returns the known numbers by name.

        `images_per_second`; `data_wait`, the fraction of the time spent waiting for
        data; `peak_memory_gib` of the first device; `tflops_per_device`, as XLA counts
        the operations of a step; `peak_fraction`, what that is of the device's peak for
        bfloat16.
        """
        seconds = time.perf_counter() - self._start
        if not self._num_steps or seconds <= 0:
            return {}
        device = jax.local_devices()[0]
        result = {
            "images_per_second": self._num_steps * self._batch_size / seconds,
            "data_wait": min(1.0, self._seconds_waiting / seconds),
        }
        memory = device.memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            result["peak_memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        if self._flops_per_step:
            flops = self._flops_per_step * self._num_steps / seconds
            result["tflops_per_device"] = flops / jax.device_count() / 1e12
            if peak := find_peak_tflops(device.device_kind):
                result["peak_fraction"] = result["tflops_per_device"] / peak
        return result


def find_peak_tflops(device_kind: str) -> float:
    """Returns the peak of a device for bfloat16 in TFLOP/s, or 0 if it is not known."""
    return next((v for name, v in _PEAK_TFLOPS.items() if name in device_kind), 0.0)


def _count_flops(step: Any, *arguments: Any) -> float:
    """Returns the operations of a step as XLA counts them, or 0 if it does not.

    Library calls, such as cuDNN's attention, are not counted.
    """
    analysis = step.lower(*arguments).cost_analysis()
    return float((analysis or {}).get("flops", 0.0))
