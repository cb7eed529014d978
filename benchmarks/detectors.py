"""The programs of detectors that are measured, on the canvas of a COCO image.

They stand beside `programs.py` because the recipe's task needs Grain and TFDS.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.programs import DETECTION_SIZE, Case, draw_images
from benchmarks.recipes import plan_run
from configs import coco_mask_rcnn, coco_retinanet
from litv2_jax import compiler_options, create_model, fuse_for_inference
from litv2_jax.training.run import Run

_RECIPES = {"retinanet_": coco_retinanet, "mask_rcnn_": coco_mask_rcnn}


def create_detection(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted function `detect(state, images, sizes)`, and its arguments.

    From the normalized images to boxes and masks, all of which fill their canvas.
    """
    model = create_model(
        case.variant, rngs=nnx.Rngs(0), dtype=jnp.dtype(case.dtype), **case.sizes
    )
    graphdef, state = nnx.split(fuse_for_inference(model))

    def detect(state: Any, images: jax.Array, sizes: jax.Array) -> Any:
        merged: Any = nnx.merge(graphdef, state)
        return merged.detect(images, sizes, sizes)

    sizes = jnp.tile(jnp.array(DETECTION_SIZE, jnp.int32), (case.batch_size, 1))
    run = jax.jit(detect, compiler_options=compiler_options(case.dtype))
    return run, (nnx.as_pure(state), draw_images(case), sizes)


def create_detector_run(case: Case) -> Run:
    """Returns what the training loop makes of COCO's recipe."""
    prefix = next(x for x in _RECIPES if case.variant.startswith(x))
    config: Any = _RECIPES[prefix].get_config(case.variant.removeprefix(prefix))
    config.batch_size = case.batch_size
    config.model.dtype = case.dtype
    config.model.sizes = case.sizes
    return plan_run(config)


def create_detector_step(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted training step `step(state, batch, key)`, and its arguments.

    The images are the largest of the recipe and have no objects: the program and the
    number of its operations do not depend on them.
    """
    run = create_detector_run(case)
    batch = jax.tree.map(jnp.asarray, dict(run.task.example_batch()))
    return run.create_step(None), (run.create_state(), batch, jax.random.key(0))
