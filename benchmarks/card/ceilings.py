"""What a device reaches at its best: its memory and its products, measured."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# The best of so many calls in a row counts.
ROUNDS, CALLS = 5, 10


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The two rates that no program exceeds by much.

    Attributes:
        bandwidth: Bytes a second, read and written, of a copy.
        flops: Of bfloat16 products a second, additions counted.
    """

    bandwidth: float
    flops: float


def measure_ceilings(megabytes: int, side: int) -> Ceilings:
    """Measures both with random numbers; zeros are multiplied faster.

    Args:
        megabytes: Size of the array that is copied; several times that of the caches.
        side: Of the matrices that are multiplied.
    """
    key = jax.random.key(0)
    x = jax.random.normal(key, (megabytes * 250_000,), jnp.float32)
    copying = _time_best(jax.jit(lambda x: -x), x)
    a = jax.random.normal(key, (side, side), jnp.bfloat16)
    multiplying = _time_best(jax.jit(lambda a: a @ a), a)
    return Ceilings(2 * x.nbytes / copying, 2 * side**3 / multiplying)


def _time_best(function: Callable[[Any], Any], x: jax.Array) -> float:
    jax.block_until_ready(function(x))
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready([function(x) for _ in range(CALLS)])
        found.append((time.perf_counter() - start) / CALLS)
    return min(found)
