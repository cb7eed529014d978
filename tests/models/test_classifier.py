import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model, list_models
from litv2_jax.models.backbone import VARIANTS
from litv2_jax.models.blocks import DropPath
from tests.reference import (
    Reference,
    abstract_model,
    differentiate,
    fill,
    make_images,
    mark_slow,
    read_json,
    to_torch_layout,
)

TINY = Reference("litv2_tiny")
LARGE = Reference("litv2_models")
FACTS = read_json("model_facts.json")
# Beside S with alpha of 0.9 as it serves, one tiny model in training.
LONG_CASES = {
    "m_224",
    "b_224",
    "b_384",
    "s_224_a0.0",
    "s_224_a0.2",
    "s_224_a0.4",
    "s_224_a0.5",
    "s_224_a0.7",
    "s_224_a1.0",
    ("a9", "eval"),
    ("a9", "train"),
    ("a5_ws4", "eval"),
}


def run_stages(model, images, rngs=None):
    """Returns the activations that the original's hooks recorded, and the logits."""
    backbone, acts = model.backbone, {}
    x = acts["patch_embed"] = backbone.patch_embedding(images)
    for i, stage in enumerate(backbone.stages):
        for j, block in enumerate(stage.blocks):
            x = acts[f"layers.{i}.blocks.{j}"] = block(x, rngs)
        if i < 3:
            merge, name = backbone.merges[i], f"layers.{i}.downsample"
            acts[f"{name}.offset"] = merge.offset(x)
            x = acts[name] = merge(x)
    x = acts["norm"] = model.norm(x)
    x = acts["pooled"] = x.mean((1, 2))
    return model.head(x), acts


def tiny_model(case: dict):
    return create_model(
        "litv2_s",
        rngs=nnx.Rngs(0),
        num_classes=case["num_classes"],
        alpha=case["alpha"],
        window_sizes=case["local_ws"],
        embed_dim=case["embed_dim"],
        depths=case["depths"],
        num_heads=case["num_heads"],
        drop_path_rate=0.0,
    )


@pytest.mark.gpu
@pytest.mark.usefixtures("all_implementations")
@pytest.mark.parametrize(
    ("name", "mode"),
    mark_slow(
        itertools.product(TINY.cases, ("eval", "train")), LONG_CASES.__contains__
    ),
)
def test_tiny_model_matches_pytorch(name, mode):
    case = TINY.cases[name]
    is_eval = mode == "eval"
    model = fill(lambda: tiny_model(case))
    model = nnx.view(model, deterministic=is_eval, use_running_average=is_eval)
    images = make_images(f"tiny/{name}", 2, (case["img"],) * 2, case["images"])
    targets = jnp.full((4, 10), 0.01) + 0.9 * jax.nn.one_hot(
        np.array(case["labels"]), 10
    )

    def loss_fn(model, images):
        logits, acts = run_stages(model, images)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, (loss, logits, acts)

    (loss, logits, acts), grads, (grad_images,), after = differentiate(
        loss_fn, model, images
    )

    stem = f"{name}/{mode}"
    assert TINY.difference(f"{stem}/logits", logits) < 2e-5
    assert TINY.difference(f"{stem}/loss", loss) < 2e-6
    for key in TINY.keys(f"{stem}/act/"):
        assert (
            TINY.difference(f"{stem}/act/{key}", to_torch_layout(acts[key], key)) < 5e-5
        )
    if not is_eval:
        buffers = litv2_jax.to_torch_state_dict(after)
        for key in TINY.keys(f"{stem}/buffer/"):
            assert TINY.difference(f"{stem}/buffer/{key}", buffers[key]) < 1e-5, key
    assert (
        TINY.difference(f"{stem}/grad_input", grad_images.transpose(0, 3, 1, 2)) < 1e-6
    )

    norms = dict(zip(case["param_names"], TINY[f"{stem}/grad_norms"], strict=True))
    for key in case["param_names"]:
        if not is_eval and key.endswith("dconv.bias"):
            # BatchNorm takes the mean off: the gradient is 0, what is left is noise.
            assert np.abs(grads[key]).max() < 1e-6
            continue
        tolerance = 1e-4 * case[mode]["grad_absmax"][key] + 1e-9
        assert TINY.difference(f"{stem}/grad/{key}", grads[key]) < tolerance, key
        np.testing.assert_allclose(np.linalg.norm(grads[key]), norms[key], rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", mark_slow(LARGE.cases, LONG_CASES.__contains__))
def test_published_models_match_pytorch(name):
    case = LARGE.cases[name]
    model = fill(
        lambda: create_model(
            f"litv2_{case['model']}", alpha=case["alpha"], rngs=nnx.Rngs(0)
        )
    )
    size = (case["img"],) * 2
    images = make_images(f"{case['model']}_{case['img']}", 1, size, [case["image"]])

    logits, acts = jax.jit(run_stages)(model, images)

    assert LARGE.difference(f"{name}/logits", logits) < 2e-5
    for i, (ours, theirs) in enumerate(zip(logits, case["top5"], strict=True)):
        assert np.argsort(-ours)[:5].tolist() == theirs, i
    for key in LARGE.keys(f"{name}/act/"):
        difference = LARGE.difference(
            f"{name}/act/{key}", to_torch_layout(acts[key], key)
        )
        # Of values up to 6; the original's own noise is up to 1.4e-5.
        assert difference < 5e-5, key


@pytest.mark.parametrize(
    ("name", "count"),
    [("litv2_s", 27_844_000), ("litv2_m", 48_830_368), ("litv2_b", 86_520_704)]
    + [("litv2_b_384", 86_520_704), ("litv2_s_alpha0.5", 27_647_392)],
)
def test_number_of_parameters_is_the_published_one(name, count):
    params = jax.tree.leaves(nnx.state(abstract_model(name), nnx.Param))
    assert sum(leaf.size for leaf in params) == count


@pytest.mark.parametrize("name", FACTS["flops"])
def test_flops_are_those_of_the_original(name):
    variant, size, *_, alpha = name.split("_")
    config = replace(VARIANTS[f"litv2_{variant}"], alpha=float(alpha[1:]))
    model = SimpleNamespace(
        backbone=SimpleNamespace(config=config),
        head=SimpleNamespace(out_features=1000),
    )
    expected = FACTS["flops"][name]["total"]
    assert litv2_jax.count_flops(model, int(size)).published == expected


def test_corrected_flops_are_those_of_the_program():
    """Counts the multiplications of the dots and convolutions that are really done."""

    def run(images):
        return create_model("litv2_s", rngs=nnx.Rngs(0))(images)

    counted = 0
    for equation in jax.make_jaxpr(run)(jnp.ones((1, 96, 160, 3))).eqns:
        counted += _multiplications(equation)
    corrected = litv2_jax.count_flops(abstract_model("litv2_s"), (96, 160)).corrected
    # The rest is depthwise convolutions, norms and sampling.
    assert 0.95 * corrected < counted < corrected


def _multiplications(equation) -> int:
    inner = [p for p in equation.params.values() if hasattr(p, "jaxpr")]
    total = sum(_multiplications(e) for p in inner for e in p.jaxpr.eqns)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = [equation.invars[0].aval.shape[axis] for axis in contracted]
        total += equation.outvars[0].aval.size * int(np.prod(depth))
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        total += equation.outvars[0].aval.size * kernel.size // kernel.shape[-1]
    return total


@pytest.mark.parametrize("variant", ["s", "m", "b"])
def test_stochastic_depth_grows_as_in_the_original(variant):
    stages = abstract_model(f"litv2_{variant}").backbone.stages
    rates = [b.drop_path.rate for stage in stages for b in stage.blocks]
    np.testing.assert_allclose(rates, FACTS["drop_path_rates"][variant], atol=1e-7)


def test_initial_weights_are_distributed_as_in_the_original():
    model = create_model("litv2_s", rngs=nnx.Rngs(0))
    expected = FACTS["init_stats_litv2_s_seed0"]
    arrays = litv2_jax.to_torch_state_dict(model)
    for name in expected.keys() & arrays.keys():
        array = arrays[name]
        stats, error = expected[name], 5 / array.size**0.5
        assert list(array.shape) == stats["shape"]
        if stats["std"] == 0:
            np.testing.assert_array_equal(array, stats["mean"], err_msg=name)
            continue
        assert abs(array.mean() - stats["mean"]) < error * stats["std"], name
        # Its sampling of a normal is infinite once in millions, and cut off at -2.
        outliers = 4 / array.size if stats["min"] == -2 else 0
        std = (stats["std"] ** 2 - outliers) ** 0.5
        assert abs(array.std() / std - 1) < error, name
        # A uniform distribution ends at 1.7 standard deviations, a normal one goes on.
        is_uniform = stats["max"] < 2.2 * stats["std"]
        assert (array.max() < 2.2 * array.std()) == is_uniform, name


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    drop = nnx.view(DropPath(0.25), deterministic=False)
    x = jnp.ones((4000, 2, 1, 3))

    kept = drop(x, nnx.Rngs(0))

    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75], rtol=1e-6)
    assert (kept == kept[:, :1, :, :1]).all()
    assert abs(kept.mean() - 1) < 0.03
    np.testing.assert_array_equal(nnx.view(drop, deterministic=True)(x, None), x)


def test_training_without_random_numbers_says_what_to_pass():
    model = nnx.view(create_model("litv2_s", rngs=nnx.Rngs(0)), deterministic=False)
    with pytest.raises(ValueError, match="rngs=nnx.Rngs"):
        jax.eval_shape(model, jnp.ones((1, 32, 32, 3)))


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    case = TINY.cases["a9"]
    images = make_images("tiny/a9", 2, (64, 64), case["images"])
    model = fill(lambda: tiny_model(case))
    sizes = {key: case[key] for key in ("alpha", "embed_dim", "depths", "num_heads")}
    rounded = fill(
        lambda: create_model(
            "litv2_s", rngs=nnx.Rngs(0), num_classes=10, dtype=jnp.bfloat16, **sizes
        )
    )

    logits = jax.jit(lambda m, x: m(x))(rounded, images)

    assert logits.dtype == jnp.float32
    maps = jax.eval_shape(lambda m, x: m.features(x), rounded, images)
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}
    exact = jax.jit(lambda m, x: m(x))(model, images)
    assert np.abs(logits - exact).max() < 0.1 * exact.std()


# The arrays of the others are compared in tests/convert, too.
@pytest.mark.parametrize(
    "name",
    mark_slow(list_models(), lambda name: name not in ("litv2_s", "litv2_b_384")),
)
def test_every_name_creates_a_model(name):
    def run(images):
        return create_model(name, rngs=nnx.Rngs(0), num_classes=7)(images)

    assert jax.eval_shape(run, jnp.ones((2, 64, 96, 3))).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "litv2_xl"}, "no model called 'litv2_xl'; there are litv2_s, "),
        ({"depths": (2, 2)}, r"depths=\(2, 2\) must have one entry for each stage"),
        ({"num_heads": (5, 6, 12, 24)}, "must divide the channels of the stages"),
        ({"num_classes": -1}, "num_classes=-1 must be 0, .* features, or more"),
        ({"in_chans": 0}, "in_chans=0 must be the number of channels"),
        ({"in_chans": 1.5}, "in_chans=1.5 must be the number of channels"),
        ({"drop_path_rate": 1.0}, "drop path rate of 1.0"),
    ],
)
def test_impossible_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**{"name": "litv2_s", **arguments}, rngs=nnx.Rngs(0))
