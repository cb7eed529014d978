"""The programs that `command.py` counts."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import hlo
from benchmarks.h200 import deviceless
from benchmarks.programs import (
    DETECTION_SIZE,
    NUM_CLASSES,
    Case,
    create_run,
    rand_augment_options,
)
from benchmarks.work import find_creator
from configs import imagenet
from litv2_jax.augment.erasing import erase
from litv2_jax.augment.randaugment import rand_augment
from litv2_jax.training.step import create_graphdef


@dataclasses.dataclass(frozen=True)
class Program:
    """What XLA made of a function.

    Attributes:
        kernels: What is started on the GPU.
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
    """Compiles the forward pass or the whole training step of a recipe of ImageNet's.

    Args:
        name: Of the model.
        work: `forward` or `train`.
        batch_size: Number of images.
        image_size: Side of the images in pixels.
        **sizes: Of the model, where they are not the published ones.
    """
    run = create_run(Case(name, work, batch_size, image_size, "bfloat16", sizes))
    state = jax.eval_shape(lambda: run.create_state())
    shape = (batch_size, image_size, image_size, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    if work == "train":
        target = jax.ShapeDtypeStruct((batch_size, NUM_CLASSES), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = {"image": images, "target": target}
        return compile_program(run.create_step(None), state, batch, key)
    graphdef = create_graphdef(run.task)

    def forward(params: Any, stats: Any, images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(graphdef, params, stats)
        return model(images)

    return compile_program(forward, state.params, state.stats, images)


def compile_detector(name: str, work: str, batch_size: int) -> Program:
    """Compiles detection or the whole training step of a recipe of COCO's.

    Args:
        name: Of the model.
        work: `forward` or `train`.
        batch_size: Number of images.
    """
    case = Case(name, work, batch_size, DETECTION_SIZE[0], "bfloat16")
    function, arguments = find_creator(case)(case)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return compile_program(function, *shapes)


def compile_augmentation(batch_size: int, image_size: int) -> dict[str, Program]:
    """Compiles what ImageNet's recipe does to images one by one, by its name.

    Args:
        batch_size: Number of images.
        image_size: Side of the images in pixels.
    """
    recipe: Any = imagenet.get_config().augment
    functions = {
        "RandAugment": functools.partial(rand_augment, **rand_augment_options()),
        "random erasing": lambda images, key: erase(
            images.astype(jnp.float32), key, probability=recipe.erasing
        ),
    }
    shape = (batch_size, image_size, image_size, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return {
        name: compile_program(function, images, key)
        for name, function in functions.items()
    }


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
