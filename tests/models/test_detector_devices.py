"""What eight devices send each other when they detect, and for gradients of losses."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.collectives import add_up_bytes, list_collectives
from litv2_jax.models import create_model
from litv2_jax.ops.truth import TrueMasks, Truth
from litv2_jax.training.devices import Devices
from tests.models.test_detectors import SMALL

COUNT, HEIGHT, WIDTH, NUM_BOXES = 16, 64, 96, 3
# Losses and what they are divided by.
BYTES_OF_SCALARS = 512


def make_inputs(kind, devices):
    """Shapes, sharded over the devices: images, sizes, and what losses take."""

    def shape(*sides, dtype=jnp.float32):
        sharding = devices.batch_sharding
        return jax.ShapeDtypeStruct((COUNT, *sides), dtype, sharding=sharding)

    integer = {"dtype": jnp.int32}
    truth = Truth(
        shape(NUM_BOXES, 4),
        shape(NUM_BOXES, **integer),
        shape(NUM_BOXES, dtype=jnp.bool_),
    )
    masks = TrueMasks(
        shape(999, dtype=jnp.uint8),
        shape(NUM_BOXES, 5, **integer),
        shape(HEIGHT, **integer),
        shape(WIDTH, **integer),
        (50, 70),
    )
    truths = (truth,) if kind == "retinanet" else (truth, masks)
    return shape(HEIGHT, WIDTH, 3), shape(2, **integer), truths


def compile_for_devices(kind, function):
    """Compiles `function(model, params, images, sizes, truths)`."""
    devices = Devices()
    model = nnx.eval_shape(
        lambda: create_model(f"{kind}_litv2_s", rngs=nnx.Rngs(0), **SMALL[kind])
    )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = (
        devices.replicate_shapes(nnx.as_pure(state)) for state in (params, rest)
    )

    def run(params, rest, *inputs):
        return function(lambda p: nnx.merge(graphdef, p, rest), params, *inputs)

    program = jax.jit(run).lower(params, rest, *make_inputs(kind, devices))
    # The machine code is not run.
    options = {"xla_backend_optimization_level": 0}
    return program.compile(compiler_options=options).as_text(), params


@pytest.mark.parametrize(
    "kind", [pytest.param("retinanet", marks=pytest.mark.slow), "mask_rcnn"]
)
def test_devices_detect_without_any_exchange(kind):
    def detect(merge, params, images, sizes, _):
        return merge(params).detect(images, sizes, sizes)

    text, _ = compile_for_devices(kind, detect)
    assert list_collectives(text) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_gradients_and_losses_are_all_that_training_exchanges(kind):
    def differentiate(merge, params, images, sizes, truths):
        def total(params):
            losses = merge(params).losses(
                images, sizes, *truths, rngs=nnx.Rngs(0), loss_group_size=2
            )
            return sum(x.sum() for x in losses.values())

        return jax.value_and_grad(total)(params)

    text, params = compile_for_devices(kind, differentiate)
    num_bytes = add_up_bytes(list_collectives(text))
    sums = num_bytes.pop("all-reduce")
    # XLA on a CPU sums the gradients that each of the five levels has of a head over
    # devices before it adds them up.
    shared = 4 * count_bytes(params[{"retinanet": "head", "mask_rcnn": "rpn"}[kind]])
    expected = count_bytes(params)
    assert expected <= sums <= expected + shared + BYTES_OF_SCALARS
    assert sum(num_bytes.values()) == 0, num_bytes


def count_bytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
