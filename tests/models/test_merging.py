import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from benchmarks.collectives import list_collectives
from litv2_jax import load_torch_weights
from litv2_jax.models.batch_norm import BatchNorm
from litv2_jax.models.merging import DeformableTokenMerging
from litv2_jax.training.devices import Devices
from tests.reference import (
    Reference,
    differentiate,
    fill,
    make_images,
    make_input,
    make_weights,
    mark_slow,
)

GOLDEN = Reference("dtm")
CASES = [case for case in GOLDEN.cases if not case.startswith("deform/")]
# Those of training show what inference does; two sizes have both.
BOTH_MODES = {"cls_12x12", "det_odd_13x9"}
OFFSET = "dconv.conv_offset."


def build(case: dict) -> DeformableTokenMerging:
    dim = case["dim"]
    layer = nnx.eval_shape(
        lambda: DeformableTokenMerging(dim, 2 * dim, rngs=nnx.Rngs(0))
    )
    arrays = make_weights(case["shapes"])
    for name in (f"{OFFSET}weight", f"{OFFSET}bias"):
        arrays[name] = arrays[name] * np.float32(case["offset_mult"])
    if case["offset_bias"] is not None:
        arrays[f"{OFFSET}bias"] = np.float32(case["offset_bias"])
    load_torch_weights(layer, arrays)
    return layer


def read_input(name: str, case: dict) -> np.ndarray:
    if case["image"]:
        return make_images("", 0, (0, 0), [case["image"]])
    shape = (case["B"], case["H"] * case["W"], case["dim"])
    return make_input(f"dtm/{name}", shape).reshape(-1, case["H"], case["W"], shape[2])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "mode"),
    mark_slow(
        itertools.product(CASES, ("eval", "train")),
        lambda case: case[0] not in BOTH_MODES and case[1] == "eval",
    ),
)
def test_matches_pytorch(name, mode):
    case = GOLDEN.cases[name]
    layer, x = build(case), read_input(name, case)
    layer = nnx.view(layer, use_running_average=mode == "eval")
    tokens = (x.shape[0], (case["H"] // 2) * (case["W"] // 2), 2 * case["dim"])
    cotangent = make_input(f"ct:dtm/{name}", tokens)

    def loss(layer, x):
        offset, output = layer.offset(x), layer(x).reshape(tokens)
        return jnp.sum(output * cotangent), (offset.transpose(0, 3, 1, 2), output)

    (offset, output), grads, (grad_x,), after = differentiate(loss, layer, x)

    assert GOLDEN.difference(f"{name}/offset", offset) < 5e-6
    assert GOLDEN.difference(f"{name}/{mode}/out", output) < 2e-5
    if mode == "train":
        stem = f"{name}/train/buffer/norm_layer."
        assert GOLDEN.difference(f"{stem}running_mean", after.norm.mean[...]) < 2e-6
        assert GOLDEN.difference(f"{stem}running_var", after.norm.var[...]) < 5e-6
        assert after.norm.num_batches[...] == GOLDEN[f"{stem}num_batches_tracked"]
    if case["B"] == 1:
        return  # See test_gradients_of_a_single_image.
    grads["x"] = grad_x.reshape(x.shape[0], -1, x.shape[3])
    for key in GOLDEN.keys(f"{name}/{mode}/grad/"):
        stored = f"{name}/{mode}/grad/{key}"
        # BatchNorm takes the mean off, so that dconv.bias has no gradient in training:
        # what is left is noise of sums of order 1 (the original's is up to 6e-6).
        noise = 2e-5 if (mode, key) == ("train", "dconv.bias") else 0
        tolerance = 1e-4 * GOLDEN.scale(stored) + noise
        assert GOLDEN.difference(stored, grads[key]) <= tolerance, key


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_of_a_single_image(mode):
    """PyTorch 2.13 on CPU mixes up height-by-width and channels here at batch size 1.

    Its stored gradients of `cls_b1` and `image` are not those of its own outputs, as
    finite differences show; so ours are held against finite differences.
    """
    case = GOLDEN.cases["cls_b1"]
    layer = nnx.view(build(case), use_running_average=mode == "eval")
    # Sampling has kinks at whole pixels, so that only what is behind it can be checked.
    smooth = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("offset")))
    graphdef, *states = nnx.split(layer, smooth, ...)
    params, rest = (nnx.as_pure(state) for state in states)
    cotangent = make_input("ct:dtm/cls_b1", (1, 16, 32)).reshape(1, 4, 4, 32)
    x = read_input("cls_b1", case)

    @jax.jit
    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params, rest)(x) * cotangent)

    check_grads(loss, (params,), order=1, modes="rev", atol=3e-3, rtol=3e-3)


def test_inference_leaves_the_statistics_alone():
    layer = fill(lambda: DeformableTokenMerging(4, 8, rngs=nnx.Rngs(0)))
    before = jax.tree.leaves(nnx.state(layer, nnx.BatchStat))
    jax.jit(lambda layer, x: layer(x))(layer, jnp.ones((2, 4, 4, 4)))
    after = jax.tree.leaves(nnx.state(layer, nnx.BatchStat))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_starts_as_a_plain_convolution():
    layer = DeformableTokenMerging(4, 8, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(layer.offset(x), 0)
    assert jax.eval_shape(layer, x).shape == (2, 3, 2, 8)


def test_training_on_a_single_value_is_refused():
    norm = nnx.view(BatchNorm(4, rngs=nnx.Rngs(0)), use_running_average=False)
    with pytest.raises(ValueError, match=r"\[1, 1, 1, 4\] has one value per channel"):
        norm(jnp.ones((1, 1, 1, 4)))


def test_statistics_of_groups_are_those_of_each_alone():
    """As in the original, where a group is what one GPU has."""
    layer = nnx.view(BatchNorm(3, rngs=nnx.Rngs(0)), use_running_average=False)
    x = np.random.default_rng(0).standard_normal((6, 2, 5, 3)).astype(np.float32)
    x *= np.arange(1, 7, dtype=np.float32)[:, None, None, None]

    def run(x, group_size):
        graphdef, state = nnx.split(nnx.view(layer, batch_norm_group_size=group_size))
        module = nnx.merge(graphdef, jax.tree.map(jnp.copy, state))
        return module(x), module.mean[...], module.var[...]

    together, mean, var = run(x, 2)
    alone = [run(part, 0) for part in np.split(x, 3)]
    np.testing.assert_allclose(together, np.concatenate([y for y, _, _ in alone]))
    np.testing.assert_allclose(mean, np.mean([m for _, m, _ in alone], 0), atol=1e-7)
    np.testing.assert_allclose(var, np.mean([v for _, _, v in alone], 0), rtol=1e-6)
    assert np.abs(run(x, 0)[0] - together).max() > 0.1
    np.testing.assert_array_equal(run(x, 100)[0], run(x, 0)[0])
    with pytest.raises(ValueError, match="6 images cannot be split into groups of 4"):
        run(x, 4)


@pytest.mark.parametrize("size", [2, 4, 6, 12, 24])
def test_groups_make_devices_exchange_no_maps(size):
    """Three images on each of eight devices, and groups that begin amid a device's."""
    devices = Devices()
    layer = nnx.view(
        BatchNorm(5, rngs=nnx.Rngs(0)),
        use_running_average=False,
        batch_norm_group_size=size,
    )
    graphdef, state = nnx.split(layer)
    x = np.random.default_rng(0).standard_normal((24, 6, 4, 5)).astype(np.float32)

    @jax.jit
    def differentiate(state, x):
        y, backward = jax.vjp(lambda x: nnx.merge(graphdef, state)(x), x)
        return y, backward(y**2)[0]

    sharded = jax.device_put(x, devices.batch_sharding)
    replicated = jax.device_put(nnx.as_pure(state), devices.replicated)
    program = differentiate.lower(replicated, sharded).compile()
    for exchanged in list_collectives(program.as_text()):
        assert exchanged.bytes <= 24 * 5 * 4
    for ours, expected in zip(
        program(replicated, sharded),
        differentiate(nnx.as_pure(state), x),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
