import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from litv2_jax.augment.mixing import blend, cutmix_weights, mix_batch, smooth_labels
from litv2_jax.augment.normalize import normalize
from litv2_jax.training.devices import Devices
from tests.reference import GOLDEN, make_input, read_json, rules

FACTS = read_json("recipe.json")["mixup"]
ARRAYS = np.load(GOLDEN / "recipe.npz")


@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutmix_clipped", "lam1"])
def test_matches_timm_on_fixed_draws(name):
    case = FACTS[name]
    images = make_input("mixup/x", (4, 3, 12, 12)).transpose(0, 2, 3, 1)
    targets = smooth_labels(
        jnp.array(case["labels"]), case["num_classes"], case["smoothing"]
    )
    weights = jnp.full((12, 12), case["lam"])
    if case["use_cutmix"]:
        weights = cutmix_weights(case["lam"], tuple(case["center"]), (12, 12))

    mixed, mixed_targets = blend(images, targets, weights)

    expected = ARRAYS[f"mixup/{name}/x_out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(mixed_targets, ARRAYS[f"mixup/{name}/target"], atol=1e-6)
    logits = make_input("mixup/logits", (4, 10))
    loss = optax.softmax_cross_entropy(logits, mixed_targets).mean()
    expected = case.get("soft_target_ce_on_make_input_mixup_logits")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("case", FACTS["cutmix_bbox_table"], ids=str)
def test_boxes_are_those_of_timm(case):
    weights = cutmix_weights(case["lam"], (case["cy"], case["cx"]), tuple(case["hw"]))
    top, bottom, left, right = case["bbox"]
    expected = np.ones(case["hw"], np.float32)
    expected[top:bottom, left:right] = 0
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_allclose(weights.mean(), case["lam_corrected"], rtol=1e-6)


def draw(key, **options):
    """Mixes an image of ones with one of zeros, so that the weights can be read off."""
    images = jnp.concatenate([jnp.ones((1, 16, 12, 1)), jnp.zeros((1, 16, 12, 1))])
    return mix_batch(images, jnp.eye(2), key, **options)


def test_targets_follow_the_pixels():
    run = jax.jit(jax.vmap(lambda key: draw(key, mixup=0.8, cutmix=1.0, switch=0.5)))
    images, targets = run(jax.random.split(jax.random.key(0), 50))
    shares = images[:, 0].mean((1, 2, 3))
    expected = np.stack([shares, 1 - shares, 1 - shares, shares], -1)
    np.testing.assert_allclose(targets.reshape(50, 4), expected, atol=1e-6)
    np.testing.assert_allclose(images.sum(1), 1, atol=1e-6)


def test_methods_are_chosen_as_often_as_said():
    run = jax.jit(
        jax.vmap(lambda key: is_box(*draw(key, mixup=0.8, cutmix=1.0, switch=0.3)))
    )
    share = run(jax.random.split(jax.random.key(0), 2000)).mean()
    assert abs(share - 0.3) < 0.04


def is_box(images, targets):
    return ((images == 0) | (images == 1)).all()


@pytest.mark.parametrize(
    ("options", "boxes"),
    [
        ({"mixup": 0.8, "cutmix": 0.0, "switch": 0.5}, 0),
        ({"mixup": 0.0, "cutmix": 1.0, "switch": 0.0}, 1),
    ],
)
def test_one_method_alone_is_always_chosen(options, boxes):
    run = jax.jit(jax.vmap(lambda key: is_box(*draw(key, **options))))
    assert run(jax.random.split(jax.random.key(0), 100)).mean() == boxes


def test_shares_of_mixup_have_the_distribution_of_its_parameter():
    run = jax.jit(
        jax.vmap(lambda key: draw(key, mixup=0.8, cutmix=0.0, switch=0.5)[1][0, 0])
    )
    shares = run(jax.random.split(jax.random.key(0), 4000))
    # A beta distribution with both parameters 0.8.
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * 2.6)) < 0.006


def test_without_either_the_batch_stays_as_it_is():
    images, targets = draw(jax.random.key(0), mixup=0.0, cutmix=0.0, switch=0.5)
    np.testing.assert_array_equal(images[0], 1)
    np.testing.assert_array_equal(targets, jnp.eye(2))


OPTIONS = {"mixup": 0.8, "cutmix": 1.0, "switch": 0.5}


def test_each_group_is_mixed_by_its_own_draw_and_among_itself():
    """Images of different groups never meet, and groups differ in their weights."""
    targets = jnp.eye(24)
    images = jnp.broadcast_to(targets[:, None, None], (24, 8, 10, 24))

    mixed, mixed_targets = mix_batch(
        images, targets, jax.random.key(1), **OPTIONS, group_size=6
    )

    np.testing.assert_allclose(mixed.mean((1, 2)), mixed_targets, atol=1e-6)
    weights = set()
    for first in range(0, 24, 6):
        block = mixed_targets[first : first + 6, first : first + 6]
        np.testing.assert_allclose(block.sum(-1), 1, atol=1e-6)
        lam = block[0, 0]
        expected = lam * jnp.eye(6) + (1 - lam) * jnp.eye(6)[::-1]
        np.testing.assert_allclose(block, expected, atol=1e-6)
        weights.add(float(lam))
    assert len(weights) == 4


def test_one_group_is_the_whole_batch():
    images = jax.random.normal(jax.random.key(0), (6, 8, 10, 3))
    results = [
        mix_batch(images, jnp.eye(6), jax.random.key(1), **OPTIONS, group_size=size)
        for size in (0, 6, 128)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])


def test_groups_that_lie_on_one_device_are_mixed_without_communication():
    """The same numbers on one device and on eight, and nothing crosses them."""
    images = jax.random.normal(jax.random.key(0), (32, 8, 10, 3))
    targets, key = jnp.eye(32), jax.random.key(1)
    run = jax.jit(functools.partial(mix_batch, **OPTIONS, group_size=4))
    expected = run(images, targets, key)

    sharding = Devices().batch_sharding
    shards = jax.device_put((images, targets), sharding)
    compiled = jax.jit(run, out_shardings=sharding).lower(*shards, key).compile()

    for ours, theirs in zip(compiled(*shards, key), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    moved = re.findall(r"= f32\S* (all-\w+|collective-\w+)", compiled.as_text())
    assert not moved


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="6 images cannot be mixed in groups of 4"):
        mix_batch(
            jnp.zeros((6, 4, 4, 3)),
            jnp.eye(6),
            jax.random.key(0),
            **OPTIONS,
            group_size=4,
        )


def test_smoothed_labels_sum_to_one():
    targets = smooth_labels(jnp.array([1, 0]), 4, 0.2)
    expected = [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]]
    np.testing.assert_allclose(targets, expected, atol=1e-7)


def test_normalisation_is_that_of_imagenet():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    expected = rules.normalize_image(pixels).transpose(1, 2, 0)
    np.testing.assert_allclose(normalize(pixels[None])[0], expected, atol=1e-6)
