"""A training step on one GPU and on all of a machine."""

import dataclasses
import functools
from typing import Any

import jax

from benchmarks.layers.command import time_all
from benchmarks.programs import Case, create_run, draw_batch
from benchmarks.results import Row
from litv2_jax.training.devices import Devices


def measure(case: Case, rounds: int) -> list[Row]:
    """Returns the images per second of one GPU and of all, with as many on each.

    Args:
        case: What one GPU does; its work is training in any case.
        rounds: How often both take their turn.
    """
    found = jax.devices()
    steps = {f"{n} of {len(found)}": _Step(case, found[:n]) for n in (1, len(found))}
    times = time_all({name: step.run for name, step in steps.items()}, rounds)
    one = 1000 * case.batch_size / next(iter(times.values()))["ms"]
    rows = []
    for name, step in steps.items():
        speed = 1000 * step.num_images / times[name]["ms"]
        share = speed / one / (step.num_images / case.batch_size)
        rows.append(Row("several GPUs", name, "images/s", speed))
        rows.append(Row("several GPUs", name, "% of as many single ones", 100 * share))
    return rows


class _Step:
    """A compiled training step, its state and a batch."""

    def __init__(self, case: Case, found: list[Any]):
        devices = Devices(found)
        self.num_images = case.batch_size * len(found)
        case = dataclasses.replace(case, batch_size=self.num_images, work="train")
        run = create_run(case, devices)
        self._step = run.create_step(devices.replicated)
        create = functools.partial(jax.jit, out_shardings=devices.replicated)
        self._state = create(run.create_state)()
        self._key = create(lambda: jax.random.key(0))()
        self._batch = jax.device_put(draw_batch(case), devices.batch_sharding)

    def run(self) -> Any:
        self._state, scalars = self._step(self._state, self._batch, self._key)
        return scalars
