"""Whole models on a GPU, here and in PyTorch, and where their time goes."""

import argparse
import contextlib
import dataclasses
import functools
import gzip
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import hlo
from benchmarks.card.ceilings import Ceilings
from benchmarks.h200.estimates import estimate_seconds
from benchmarks.h200.minimum import minimum_bytes
from benchmarks.model.command import (
    OURS,
    Clock,
    prepare_peer,
    summarize,
    take_turns,
)
from benchmarks.profile.command import profile_kernels
from benchmarks.programs import Case
from benchmarks.results import Row
from benchmarks.torch_peer.peer import TorchPeer
from benchmarks.work import PreparedWork
from litv2_jax.models.backbone import VARIANTS

# Of each process that compiles PyTorch's programs.
CORES_PER_PEER = 2
PROGRAMS_AT_A_TIME = 2
# Of a profile: the calls, and the kernels that are listed.
CALLS, NUM_KERNELS = 5, 60


class Contest:
    """Cases of one model, by this code and by PyTorch."""

    def __init__(
        self,
        cases: Sequence[Case],
        ceilings: Ceilings,
        options: argparse.Namespace,
        description: dict[str, Any],
        *,
        with_plain: bool,
    ):
        """Takes what is to be measured.

        Args:
            cases: Of one model.
            ceilings: Of the device.
            options: Of the command.
            description: Of the run; PyTorch's version is added.
            with_plain: Whether to measure without compiler options as well.
        """
        self.cases, self._ceilings, self._options = cases, ceilings, options
        self._description, self._with_plain = description, with_plain
        # By the number of the case; without compiler options; by number and name.
        self._ours: dict[int, PreparedWork] = {}
        self._plain: dict[int, PreparedWork] = {}
        self._peers: dict[tuple[int, str], tuple[TorchPeer, dict[str, Any]]] = {}
        self._ms: dict[int, float] = {}
        self._stack = contextlib.ExitStack()

    def prepare(self) -> list[Row]:
        """Compiles this code alone: XLA times what it can choose from."""
        choices = (True, False) if self._with_plain else (True,)
        jobs = [(i, choice) for choice in choices for i in range(len(self.cases))]
        # More at a time might not fit in memory: each is run to warm up.
        with ThreadPoolExecutor(PROGRAMS_AT_A_TIME) as pool:
            found = list(pool.map(self._prepare_ours, jobs))
        return [row for rows in found for row in rows]

    def prepare_torch(self) -> list[Row]:
        """Compiles with PyTorch, in a process for each case and configuration."""
        names = self._options.against_torch
        jobs = [(i, name) for name in names for i in range(len(self.cases))]
        workers = max(1, (os.cpu_count() or 1) // CORES_PER_PEER)
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(self._prepare_peer, jobs))
        return [row for rows in found for row in rows]

    def measure(self, i: int) -> list[Row]:
        """Times this code and PyTorch in turns."""
        case, ours = self.cases[i], self._ours[i]
        works = {OURS: ours}
        if i in self._plain:
            works[f"{OURS} without options"] = self._plain[i]
        facts: dict[str, dict[str, float | None]] = {
            name: {"compile s": work.compile_seconds, "peak MB": work.peak_megabytes}
            for name, work in works.items()
        }
        clocks: dict[str, Clock] = {name: work.time for name, work in works.items()}
        for (number, name), (peer, fact) in self._peers.items():
            if number == i:
                facts[f"torch {name}"] = fact
                clocks[f"torch {name}"] = functools.partial(peer.time, name)
        times = take_turns(clocks, self._options.rounds)
        self._ms[i] = 1000 * statistics.median(x["seconds"] for x in times[OURS])
        return summarize(case, case.part, times, facts)

    def profile(self, i: int) -> list[Row]:
        """Returns the kernels of a program that take longest, in a call."""
        times = profile_kernels(self._ours[i], CALLS)
        longest = sorted(times.items(), key=lambda item: -item[1])[:NUM_KERNELS]
        part = f"{self.cases[i].part}, {self.cases[i].variant}, kernels"
        rows = [Row(part, name, "ms", milliseconds) for name, milliseconds in longest]
        return [*rows, Row(part, "all", "ms", sum(times.values()))]

    def compare_with_ceilings(self, i: int) -> list[Row]:
        """Returns what the measured time is of the least possible."""
        case, ours, ms = self.cases[i], self._ours[i], self._ms[i]
        kernels = hlo.list_kernels(ours.program)
        totals = hlo.add_up(kernels)
        rates = self._ceilings.bandwidth, self._ceilings.flops
        config = dataclasses.replace(VARIANTS[case.variant], **case.sizes)
        least = minimum_bytes(config, case.image_size, case.batch_size, case.work)
        floor = max(least / rates[0], totals.flops / rates[1])
        values = {
            "TFLOP/s": totals.flops / ms / 1e9,
            "kernels": totals.kernels,
            "GB": totals.bytes_moved / 1e9,
            "least GB": least / 1e9,
            "% of the roofline": 100 * floor / (ms / 1000),
            "% by its kernels": 100 * estimate_seconds(kernels, *rates) / (ms / 1000),
        }
        part = f"{case.part}, roofline"
        return [Row(part, case.variant, name, value) for name, value in values.items()]

    def close(self) -> None:
        """Ends PyTorch and forgets the programs."""
        self._stack.close()
        self._ours.clear()
        self._plain.clear()
        self._peers.clear()

    def _prepare_ours(self, job: tuple[int, bool]) -> list[Row]:
        """Compiles a case; returns a row where that does not work."""
        i, with_options = job
        case = self.cases[i]
        try:
            work = PreparedWork(case, with_options=with_options)
        except (RuntimeError, ValueError) as error:
            return _leave_out(f"{case.part}, {case.variant}", error)
        (self._ours if with_options else self._plain)[i] = work
        if with_options:
            name = f"{case.variant}_{case.work}_{case.batch_size}.txt.gz"
            text = gzip.compress(work.program.encode())
            (self._options.keep / name).write_bytes(text)
        return []

    def _prepare_peer(self, job: tuple[int, str]) -> list[Row]:
        """Has PyTorch compile a case; returns a row where that does not work."""
        case, name = self.cases[job[0]], job[1]
        try:
            peer = self._stack.enter_context(TorchPeer(self._options.torch_python))
            self._peers[job] = peer, prepare_peer(peer, name, case)
            about = {f"torch {key}": value for key, value in peer.describe().items()}
        except RuntimeError as error:
            self._peers.pop(job, None)
            return _leave_out(f"{case.part}, torch {name}", error)
        self._description.update(about)
        return []


def _leave_out(what: str, error: Exception) -> list[Row]:
    print(f"card: {what}: {error}", flush=True)
    return [Row("left out", f"{what}: {str(error)[:300]}", "s", 0)]
