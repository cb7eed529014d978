import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax import fuse_for_inference
from litv2_jax.models.batch_norm import BatchNorm
from tests.reference import fill, mark_slow

SIZES = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 3, 6)}


def create(**options):
    """A small model none of whose constants is 0 or 1."""
    model = fill(
        lambda: litv2_jax.create_model(
            "litv2_s", rngs=nnx.Rngs(0), num_classes=7, **SIZES, **options
        )
    )
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            shape = module.mean.shape
            module.mean[...] = jnp.asarray(rng.standard_normal(shape), jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32)
    return model


@functools.partial(jax.jit, static_argnums=0)
def run_state(graphdef, state, images):
    return nnx.merge(graphdef, state)(images)


def run(model, images):
    return run_state(*nnx.split(model), images)


def draw_images(height, width):
    return jax.random.normal(jax.random.key(0), (2, height, width, 3))


@pytest.mark.parametrize(
    "alpha", mark_slow([0.0, 0.5, 1.0], lambda alpha: alpha != 0.5)
)
def test_computes_the_same(alpha):
    model = create(alpha=alpha)
    # Padded to whole windows in the third stage, where zeros must stay zeros.
    images = draw_images(80, 112)
    expected = run(model, images)
    np.testing.assert_allclose(
        run(fuse_for_inference(model), images), expected, atol=2e-5
    )
    np.testing.assert_array_equal(run(model, images), expected)


def test_bfloat16_stays_within_its_rounding():
    images = draw_images(64, 64)
    exact = run(create(), images)
    rounded = create(dtype=jnp.bfloat16)
    error = np.abs(run(rounded, images) - exact).max()
    fused_error = np.abs(run(fuse_for_inference(rounded), images) - exact).max()
    assert 0 < fused_error < 2 * error


def test_has_fewer_numbers_and_smaller_ones():
    model = create(dtype=jnp.bfloat16)
    fused = fuse_for_inference(model)
    before, after = (jax.tree.leaves(nnx.state(x)) for x in (model, fused))
    assert not jax.tree.leaves(nnx.state(fused, nnx.BatchStat))
    assert sum(x.size for x in after) < sum(x.size for x in before)
    assert sum(x.nbytes for x in after) < 0.6 * sum(x.nbytes for x in before)


def test_refuses_what_needs_the_original():
    fused = fuse_for_inference(create())
    with pytest.raises(ValueError, match="train the model that was given to"):
        nnx.view(fused, deterministic=False, use_running_average=False)
    with pytest.raises(ValueError, match="fused already"):
        fuse_for_inference(fused)
    with pytest.raises(ValueError, match="A HiLo is only a part of a model"):
        fuse_for_inference(litv2_jax.HiLo(12, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="known for a FoldedNorm"):
        litv2_jax.to_torch_state_dict(fused)


@pytest.mark.parametrize("batch", [1, 4, 5, 6])
def test_a_few_images_at_a_time_give_the_same(batch):
    model = create()
    images = jax.random.normal(jax.random.key(0), (batch, 64, 64, 3))
    few = nnx.view(model, images_at_once=4)
    expected = jax.jit(lambda model, x: model.features(x))(model, images)
    found = jax.jit(lambda model, x: model.features(x))(few, images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    program = str(jax.make_jaxpr(lambda x: few(x))(images))
    # In equal parts: 5 images one by one, 6 by threes.
    assert ("scan[" in program) == (batch > 4)


@pytest.mark.parametrize("kind", ["inference", "statistics", "draws", "sizes"])
def test_images_that_are_not_alike_are_taken_at_once(kind):
    view = {"use_running_average": kind != "statistics", "images_at_once": 1}
    graphdef, state = nnx.split(nnx.view(create(), **view))
    sizes = np.array([[64, 64], [40, 50]]) if kind == "sizes" else None

    def run(state, images):
        rngs = nnx.Rngs(0) if kind == "draws" else None
        return nnx.merge(graphdef, state).features(images, sizes, rngs=rngs)

    program = str(jax.make_jaxpr(run)(state, draw_images(64, 64)))
    assert ("scan[" in program) == (kind == "inference")
