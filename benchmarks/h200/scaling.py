"""What several H200s exchange in the steps of two recipes, and how fast they are.

The steps are those of the training loop with everything that the recipe does to a
batch, in bfloat16, for an eighth of the recipe's images on each GPU.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.collectives import add_up_bytes, list_collectives
from benchmarks.h200 import estimates
from benchmarks.h200.deviceless import GPUS_PER_HOST, compile_for_h200, find_h200s
from benchmarks.recipes import plan_run
from benchmarks.results import Row
from configs import ade20k_semantic_fpn, imagenet
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import Evaluator

RECIPES = {"classification": imagenet, "segmentation": ade20k_semantic_fpn}
WORK = ("train", "evaluate")

# So many GPUs are estimated from the program for the largest number below them, if that
# fills a host.
EXTRAPOLATED = (64, 512)

# Of an image and its label to evaluate by ADE20K's recipe: 4:3, shortest side 512.
CANVAS = (512, 704)


def measure_steps(numbers: Sequence[int]) -> list[Row]:
    """Returns what the steps of both recipes exchange and how fast they are.

    Args:
        numbers: Of GPUs, the largest last.
    """
    rows = []
    for recipe, module in RECIPES.items():
        for work in WORK:
            config: Any = module.get_config("litv2_s")
            config.model.dtype = "bfloat16"
            images = config.batch_size // GPUS_PER_HOST
            part, text = f"{recipe} {work}", ""
            for number in numbers:
                config.batch_size = images * number
                start = time.perf_counter()
                text = compile_step(config, work, number)
                print(
                    f"{recipe}, {work}, {number}: {time.perf_counter() - start:.0f} s"
                )
                rows += describe_step(part, text, number, number, images)
            larger = [n for n in EXTRAPOLATED if n > numbers[-1] >= GPUS_PER_HOST]
            for number in larger:
                rows += describe_step(part, text, numbers[-1], number, images)
    return rows


def compile_step(config: Any, work: str, num_gpus: int) -> str:
    """Returns the compiled step of a recipe, whose batch size is of all GPUs.

    Args:
        config: The recipe.
        work: `train` or `evaluate`.
        num_gpus: On as few hosts as have so many.
    """
    devices = Devices(find_h200s(num_gpus))
    run = plan_run(config, devices)
    state = run.create_abstract_state()
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape), dtype, sharding=devices.batch_sharding
        )
        for name, (shape, dtype) in _list_inputs(config, work).items()
    }
    if work == "evaluate":
        step: Any = Evaluator(run.task, devices)._evaluate
        compiled = compile_for_h200(step, state.params, state.stats, batch)
    else:
        key = devices.replicate_shapes(jax.eval_shape(lambda: jax.random.key(0)))
        step = run.create_step(devices.replicated)
        compiled = compile_for_h200(step, state, batch, key)
    return compiled.as_text() or ""


def describe_step(
    part: str, text: str, compiled_for: int, num_gpus: int, images: int
) -> list[Row]:
    """Returns the numbers of a compiled step, for more GPUs if there are to be.

    Args:
        part: Of the rows.
        text: The program.
        compiled_for: Number of its GPUs.
        num_gpus: Number of the GPUs to estimate.
        images: On each GPU.
    """
    exchanges = list_collectives(text)
    num_bytes = add_up_bytes(exchanges)
    if "all-gather" in num_bytes:
        num_bytes["all-gather"] *= num_gpus // compiled_for
    sums = [x.bytes / x.count for x in exchanges if x.kind == "all-reduce"]
    seconds = estimates.estimate_step(text, compiled_for, num_gpus)
    values = {
        "exchanges": sum(exchange.count for exchange in exchanges),
        **{f"{kind} MB": size / 1e6 for kind, size in num_bytes.items()},
        "largest all-reduce MB": max(sums, default=0) / 1e6,
        "ms computing": 1000 * seconds.computing,
        "ms exchanging": 1000 * seconds.exchanging,
        "ms waiting": 1000 * seconds.waiting,
        "images/s": images * num_gpus / seconds.total,
        "share computing": seconds.computing / seconds.total,
    }
    name = f"{num_gpus} GPUs"
    if num_gpus != compiled_for:
        name += f", program for {compiled_for}"
    return [Row(part, name, quantity, value) for quantity, value in values.items()]


def _list_inputs(config: Any, work: str) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns shape and type of the arrays of an example."""
    # Unreadable records, which processes agree on.
    inputs: dict[str, tuple[tuple[int, ...], Any]] = {"num_unreadable": ((), np.int32)}
    if config.task == "classification":
        side = config.data.image_size
        inputs |= {"image": ((side, side, 3), np.uint8), "label": ((), np.int32)}
    else:
        side = config.data.crop_size
        size = CANVAS if work == "evaluate" else (side, side)
        inputs |= {"image": ((*size, 3), np.uint8), "size": ((2,), np.int32)}
        inputs |= {"label": (size, np.uint8)}
    if work == "evaluate":
        inputs |= {"valid": ((), np.bool_)}
        if config.task == "segmentation":
            inputs |= {"label_size": ((2,), np.int32)}
    return inputs
