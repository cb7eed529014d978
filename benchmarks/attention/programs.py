"""Compiled passes through one layer: forward, and with what gradients need."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from benchmarks.attention.layers import CreateLayer
from benchmarks.memory import PeakMemory

DIM, NUM_HEADS = 768, 12

# A layer as a function of its parameters and its input.
Apply = Callable[[nnx.State, jax.Array], jax.Array]


class Program(NamedTuple):
    """A compiled pass.

    Attributes:
        run: Computes and waits for the results.
        parameters: Their number.
        argument_bytes: Of parameters and input.
        bytes: Arguments, results and the temporaries that XLA knows of.
    """

    run: Callable[[], object]
    parameters: int
    argument_bytes: int
    bytes: int


def pass_forward(apply: Apply, params: nnx.State, x: jax.Array) -> jax.Array:
    """Returns the output."""
    return apply(params, x)


def pass_forward_recording(apply: Apply, params: nnx.State, x: jax.Array):
    """Returns the output and all that the gradients of the parameters need."""
    y, backward = jax.vjp(lambda params: apply(params, x), params)
    return y, jax.tree.leaves(backward)


def pass_forward_and_backward(apply: Apply, params: nnx.State, x: jax.Array):
    """Returns the output and the gradients of parameters and input."""
    y, backward = jax.vjp(apply, params, x)
    # Gradients of a sum would be simpler to compute than those of a network; the input
    # is an array of the right shape.
    return y, backward(x)


def compile_pass(
    create: CreateLayer,
    direction: Callable[[Apply, nnx.State, jax.Array], object],
    side: int,
    batch_size: int,
    dtype: DTypeLike,
) -> Program:
    """Compiles a pass of random [B, side, side, DIM] through a layer.

    Args:
        create: A value of `LAYERS`.
        direction: One of the functions above.
        side: Height and width of the maps.
        batch_size: How many there are.
        dtype: Type of input and computation.
    """
    layer = create(DIM, NUM_HEADS, (side, side), dtype, nnx.Rngs(0))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    params, rest = nnx.as_pure(params), nnx.as_pure(rest)

    def apply(params: nnx.State, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest)(x)

    rng = np.random.default_rng(0)
    shape = (batch_size, side, side, DIM)
    x = jax.device_put(rng.standard_normal(shape, np.float32).astype(dtype))
    compiled = jax.jit(functools.partial(direction, apply)).lower(params, x).compile()
    memory: Any = compiled.memory_analysis()
    return Program(
        run=lambda: jax.block_until_ready(compiled(params, x)),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        argument_bytes=memory.argument_size_in_bytes,
        bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes,
    )


def run_measuring_memory(program: Program) -> int:
    """Runs a program for the first time and returns the bytes that it needs.

    On a CPU, XLA hands attention of two maps and more to kernels of YNNPACK, whose own
    temporaries it does not know before jax 0.11: for MSA on four maps of 56 x 56 it
    says 0.28 GB, where the process grows by 3.8. So under Linux the growth counts where
    it is more.
    """
    with PeakMemory() as memory:
        program.run()
    if jax.default_backend() != "cpu" or memory.bytes is None:
        return program.bytes
    return max(program.bytes, program.argument_bytes + memory.bytes)
