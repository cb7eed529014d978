"""The programs that `h200.py` counts: whole models, and two layers on their own."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import deviceless, hlo
from benchmarks.programs import NUM_CLASSES, Case, create_run
from litv2_jax.ops.deform_conv import deform_conv
from litv2_jax.ops.depthwise import depthwise_conv3x3_gelu
from litv2_jax.training.step import create_graphdef


@dataclasses.dataclass(frozen=True)
class Program:
    """What XLA made of a function.

    Attributes:
        kernels: See there.
        ptx: Their instructions, by name with underscores for dots; libraries' lack.
        memory: Bytes of temporaries.
        seconds: Time that it took to compile.
    """

    kernels: list[hlo.Kernel]
    ptx: dict[str, str]
    memory: int
    seconds: float


def compile_model(
    name: str, work: str, batch_size: int, image_size: int, **sizes: Any
) -> Program:
    """Compiles the forward pass or the whole update of a recipe of ImageNet's.

    Args:
        name: Of the model.
        work: `forward` or `train`.
        batch_size: Number of images.
        image_size: Side of the images in pixels.
        **sizes: Of the model, where they are not the published ones.
    """
    case = Case(name, work, batch_size, image_size, "bfloat16", sizes)
    run = create_run(case)
    state = jax.eval_shape(lambda: run.create_state())
    images = _array(batch_size, image_size, image_size, 3, dtype=jnp.float32)
    if work == "train":
        batch = {
            "image": images,
            "target": _array(batch_size, NUM_CLASSES, dtype=jnp.float32),
        }
        key = jax.eval_shape(lambda: jax.random.key(0))
        return compile_program(run.create_step(None), state, batch, key)
    graphdef = create_graphdef(run.task)

    def forward(params: Any, stats: Any, images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(graphdef, params, stats)
        return model(images)

    return compile_program(forward, state.params, state.stats, images)


def compile_program(function: Callable, *arguments: Any) -> Program:
    """Compiles a function of abstract arrays."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        compiled = deviceless.compile_for_h200(
            function, *arguments, dump_to=Path(folder)
        )
        seconds = time.perf_counter() - start
        kernels = hlo.list_kernels(compiled.as_text() or "")
        ptx = deviceless.read_ptx(Path(folder))
    memory: Any = compiled.memory_analysis()
    return Program(kernels, ptx, memory.temp_size_in_bytes, seconds)


def compile_merging(batch_size: int, side: int, dim: int) -> Program:
    """Compiles the backward pass of the deformable convolution of a token merging."""

    def backward(x: jax.Array, offsets: jax.Array, kernel: jax.Array, grad: jax.Array):
        return jax.vjp(deform_conv, x, offsets, kernel)[1](grad)

    half = side // 2
    return compile_program(
        backward,
        _array(batch_size, side, side, dim),
        _array(batch_size, half, half, 8, dtype=jnp.float32),
        _array(2, 2, dim, 2 * dim, dtype=jnp.float32),
        _array(batch_size, half, half, 2 * dim),
    )


def compile_depthwise(batch_size: int, side: int, dim: int) -> Program:
    """Compiles a depthwise convolution with its GELU, forward and backward."""

    def update(x: jax.Array, kernel: jax.Array, bias: jax.Array, grad: jax.Array):
        y, vjp = jax.vjp(depthwise_conv3x3_gelu, x, kernel, bias)
        return y, vjp(grad)

    x = _array(batch_size, side, side, dim)
    kernel, bias = (_array(*s, dtype=jnp.float32) for s in ((3, 3, 1, dim), (dim,)))
    return compile_program(update, x, kernel, bias, x)


def _array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
