"""What eight devices send each other in a step: gradients, statistics and scalars."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks.collectives import add_up_bytes, list_collectives
from configs import imagenet
from litv2_jax import use_implementation
from litv2_jax.ops.implementations import OPERATIONS
from litv2_jax.training.evaluation import Evaluator
from litv2_jax.training.run import Run
from tests.reference import mark_slow
from tests.tasks import test_detection, test_segmentation
from tests.test_resume import create, digits

BATCH_SIZE = 32

# Bytes of what evaluation returns for each image, and of what a step may exchange but
# for sums over the batch: 64 kB for a batch of 4,096. A logit of each class is more.
BYTES_PER_IMAGE = 16

# A hundred boxes with their scores, classes and masks.
BYTES_PER_DETECTION = 4 * 100 * (4 + 1 + 1 + 28 * 28) + BYTES_PER_IMAGE

# Sums that BatchNorm takes of a batch, over its running statistics: two forward, which
# rematerialization repeats, and three backward. Beside them, losses and the like.
SUMS_PER_STATISTIC = 4
BYTES_OF_SCALARS = 256


def classification(data_dir: Path) -> dict[str, Any]:
    """A small model with everything that ImageNet's recipe does to a batch."""
    config = digits(data_dir)
    config["augment"] = imagenet.get_config().to_dict()["augment"]
    config["augment"] |= {"mix_group_size": BATCH_SIZE // 8}
    # Maps of 64 kB and more on the way to every stage but the last.
    config["data"] |= {"image_size": 64}
    return config


def segmentation(data_dir: Path) -> dict[str, Any]:
    """A small model with everything that ADE20K's recipe does to a batch."""
    return test_segmentation.recipe(data_dir)


def detection(data_dir: Path) -> dict[str, Any]:
    """A small Mask R-CNN, whose images have sizes of their own on a canvas."""
    return test_detection.recipe(data_dir, model="mask_rcnn_litv2_s")


# A function from a folder to a recipe; `tests/models/test_detector_devices.py` has the
# gradients of detectors.
RECIPES = {"classification": classification, "segmentation": segmentation}
NAMES = mark_slow(RECIPES, lambda name: name == "segmentation")

# What a recipe may do to save memory, and statistics of two devices' images each.
PARTS = {"accumulation_steps": 2, "remat": "blocks", "batch_norm_group_size": 4}


def shard(run: Run, batches: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch on eight devices."""
    sharding = run.devices.batch_sharding
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
        for name, array in next(iter(batches)).items()
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Callable[..., Run]:
    data_dir = tmp_path_factory.mktemp("data")

    def start(name: str, dtype: str = "float32", **changes: Any) -> Run:
        create_recipe = (RECIPES | {"detection": detection})[name]
        config = create_recipe(data_dir) | {"batch_size": BATCH_SIZE} | changes
        config["model"] |= {"dtype": dtype}
        config["data"] |= {"train_split": "train[:100]"}
        settings, task = create(config)
        return Run(task, settings)

    return start


def trace_train_step(run: Run) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = run.create_step(run.devices.replicated)
    batch = shard(run, run.task.train_batches(0))
    return step.trace(
        run.create_abstract_state(), batch, run.devices.replicate_shapes(key)
    )


def compile_train_step(run: Run) -> str:
    # The machine code is not run.
    options = {"xla_backend_optimization_level": 0}
    compiled = trace_train_step(run).lower().compile(compiler_options=options)
    return compiled.as_text()


def compile_eval_step(run: Run) -> str:
    step = Evaluator(run.task, run.devices)._evaluate
    batch = shard(run, run.task.eval_batches())
    state = run.create_abstract_state()
    compiled = step.lower(state.params, state.stats, batch).compile()
    return compiled.as_text()


def count_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def assert_gradients_and_statistics_alone(run: Run) -> None:
    exchanged = list_collectives(compile_train_step(run))
    num_bytes = add_up_bytes(exchanged)
    # Gradients of each part are summed over the devices, then added up.
    sums = num_bytes.pop("all-reduce") / run.settings.accumulation_steps
    state = run.create_abstract_state()
    parameters, statistics = map(count_bytes, (state.params, state.stats))
    allowance = SUMS_PER_STATISTIC * statistics + BYTES_OF_SCALARS
    assert parameters <= sums <= parameters + allowance, exchanged
    assert sum(num_bytes.values()) <= BYTES_PER_IMAGE * BATCH_SIZE, exchanged


@pytest.mark.parametrize(
    "changes", [{}, pytest.param(PARTS, marks=pytest.mark.slow)], ids=["whole", "parts"]
)
@pytest.mark.parametrize("name", NAMES)
def test_training_exchanges_gradients_and_statistics_alone(start, name, changes):
    assert_gradients_and_statistics_alone(start(name, **changes))


def test_training_by_what_gpus_run_exchanges_no_more(start):
    """By all but cuDNN's attention, which CPUs do not have."""
    chosen = {x.name: x.default for x in OPERATIONS.values() if x.name != "attention"}
    assert "depthwise_gradient" in chosen
    with use_implementation(**chosen):
        assert_gradients_and_statistics_alone(start("classification"))


@pytest.mark.parametrize(
    "name", [*NAMES, pytest.param("detection", marks=pytest.mark.slow)]
)
def test_evaluation_exchanges_nothing_but_its_scores(start, name):
    run = start(name)
    exchanged = list_collectives(compile_eval_step(run))
    num_bytes = add_up_bytes(exchanged)
    # The confusion matrix of segmentation.
    assert num_bytes.pop("all-reduce", 0) <= 2**10, exchanged
    per_image = BYTES_PER_DETECTION if name == "detection" else BYTES_PER_IMAGE
    assert sum(num_bytes.values()) <= per_image * BATCH_SIZE, exchanged


# No other size is a multiple of this one.
PRIME = 11


def list_sums(jaxpr: Any) -> Iterator[Any]:
    """Yields the type of each sum over the batch, of which devices have a part each."""
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        for inside in inner:
            yield from list_sums(inside)
        if not inner and any(has_batch(x.aval) for x in equation.invars):
            yield from (x.aval for x in equation.outvars if not has_batch(x.aval))


def has_batch(aval: Any) -> bool:
    return any(size % PRIME == 0 for size in getattr(aval, "shape", ()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_rounded_models_are_summed_in_float32(start, name):
    """XLA sums over devices in the type that a product or sum has on each of them."""
    run = start(name, batch_size=8 * PRIME, dtype="bfloat16")
    sums = list(list_sums(trace_train_step(run).jaxpr.jaxpr))
    shapes = {x.shape for x in jax.tree.leaves(run.create_abstract_state().params)}
    assert {x.dtype for x in sums if x.shape in shapes} == {jnp.dtype("float32")}
    assert "bfloat16" not in {str(x.dtype) for x in sums}
