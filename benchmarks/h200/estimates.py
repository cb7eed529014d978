"""How long H200s take for a program that XLA compiled, at their best.

A kernel is bound by memory, by products or by its start. Exchanges among GPUs take
turns on a stream of their own, which is where the program has them begin; the kernels
go on until it needs the result. Exchanges of a program are rings: over NVLink within
each host, and over InfiniBand between the GPUs that have the same place in all hosts,
each of which has a part of the array. What exchanges take from the kernels beside them
(memory, cores) is left out, and so are loading and copying images.
"""

import dataclasses
import math
from collections.abc import Sequence

from benchmarks import hlo, hlo_text
from benchmarks.collectives import Collective, read_collective
from benchmarks.h200.deviceless import GPUS_PER_HOST

# What an H200 reaches at its best, rather than what its data sheet says: bfloat16
# products, memory, and the seconds that the smallest kernel takes.
FLOPS, BYTES, LAUNCH = 790e12, 4.3e12, 2e-6

# Bytes a second, each way, of one GPU.
NVLINK, INFINIBAND = 450e9, 50e9

# Seconds that an exchange of nothing takes within a host, and again for each doubling
# of the hosts.
LATENCY = 20e-6

# How often a ring passes the array from GPU to GPU.
_PASSES = {"all-reduce": 2, "all-gather": 1}


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """Seconds of a step on each GPU.

    Attributes:
        computing: Of its kernels.
        exchanging: Of its exchanges.
        waiting: Those of `exchanging` in which no kernel runs.
    """

    computing: float
    exchanging: float
    waiting: float

    @property
    def total(self) -> float:
        """Seconds from begin to end."""
        return self.computing + self.waiting


def estimate_seconds(
    kernels: Sequence[hlo.Kernel], bandwidth: float = BYTES, flops: float = FLOPS
) -> float:
    """Returns the time of kernels one after the other.

    Args:
        kernels: Of a program.
        bandwidth: Bytes a second of the memory.
        flops: Of products a second.
    """
    return sum(
        kernel.count
        * max(
            (kernel.bytes_read + kernel.bytes_written) / bandwidth,
            kernel.flops / flops,
            LAUNCH,
        )
        for kernel in kernels
    )


def estimate_exchange(exchange: Collective, compiled_for: int, num_gpus: int) -> float:
    """Returns the seconds of an exchange among more GPUs than it was compiled for.

    A gathered array grows with the number of GPUs.

    Raises:
        ValueError: If it is neither a sum nor a gathering.
    """
    if exchange.kind not in _PASSES:
        raise ValueError(
            f"There is no estimate for {exchange.kind} ({exchange.source}); the steps "
            f"of a recipe have {' and '.join(_PASSES)} alone."
        )
    local = min(num_gpus, GPUS_PER_HOST)
    hosts = num_gpus // local
    size = exchange.bytes
    if exchange.kind == "all-gather":
        size *= num_gpus / compiled_for
    within = size * (local - 1) / local / NVLINK
    between = size / local * (hosts - 1) / hosts / INFINIBAND
    latency = exchange.count * LATENCY * (1 + math.log2(hosts))
    return latency + _PASSES[exchange.kind] * (within + between)


def estimate_step(text: str, compiled_for: int, num_gpus: int) -> StepEstimate:
    """Returns the time of a compiled program, in the order that XLA scheduled.

    Args:
        text: The optimised program, `compiled.as_text()`.
        compiled_for: Number of its GPUs.
        num_gpus: That of those to estimate, with as many images on each.
    """
    kernels = {kernel.name: kernel for kernel in hlo.list_kernels(text)}
    # When the kernels so far, and the exchanges so far, have ended.
    now = is_free = computing = exchanging = 0.0
    ends = {}
    for instruction in hlo_text.parse(text):
        if instruction.opcode.endswith("-done"):
            now = max(now, ends.get(instruction.operands[0].name, now))
        for part, count in hlo.walk([instruction]):
            exchange = read_collective(part, count)
            if not exchange:
                kernel = dataclasses.replace(kernels[part.name], count=count)
                seconds = estimate_seconds([kernel])
                computing += seconds
                now += seconds
                continue
            seconds = estimate_exchange(exchange, compiled_for, num_gpus)
            exchanging += seconds
            is_free = max(now, is_free) + seconds
            if _is_asynchronous(instruction):
                ends[instruction.name] = is_free
            else:
                now = is_free
    return StepEstimate(computing, exchanging, max(now, is_free) - computing)


def _is_asynchronous(instruction: hlo_text.Instruction) -> bool:
    """Whether kernels may run beside an exchange; those in loops end where they are."""
    is_sync = '"is_sync":true' in instruction.attributes
    return instruction.opcode.endswith("-start") and not is_sync
