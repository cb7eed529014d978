import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.anchors import create_anchors
from litv2_jax.ops.matching import BACKGROUND, IGNORED
from litv2_jax.ops.sampling import sample_matches
from tests.ops.test_anchors import CASES
from tests.ops.test_matching import match
from tests.reference import Reference

NAME = "dense/mask_tiny_ws2"
GOLDEN = Reference(NAME)


@functools.partial(jax.jit, static_argnames=("size", "max_positive"))
def sample(truth, key, *, size, max_positive):
    return sample_matches(truth, size=size, max_positive=max_positive, key=key)


def split(samples):
    """Indices of the positive samples and of the background."""
    indices, is_positive, is_valid = jax.device_get(
        (samples.indices, samples.is_positive, samples.is_valid)
    )
    chosen, is_positive = indices[is_valid], is_positive[is_valid]
    return chosen[is_positive], chosen[~is_positive]


@pytest.mark.parametrize("image", [0, 1])
def test_evenly_spaced_anchors_are_those_of_the_golden_values(image):
    _, *shapes = CASES[NAME]
    sizes = GOLDEN["featmap_sizes"].tolist()
    priors = np.concatenate(create_anchors(sizes, *shapes))
    matches = match(priors, GOLDEN[f"gt.{image}/bboxes"], "rpn", padding=10)
    samples = sample(matches.truth, None, size=256, max_positive=128)
    positive, negative = split(samples)
    key = f"loss_eval_mode/rpn_sampled.{image}"
    np.testing.assert_array_equal(positive, GOLDEN[f"{key}/pos_inds"])
    np.testing.assert_array_equal(negative, GOLDEN[f"{key}/neg_inds"])
    truth = np.asarray(matches.truth)[positive]
    np.testing.assert_array_equal(truth, GOLDEN[f"{key}/pos_assigned_gt"])


@pytest.mark.parametrize("image", [0, 1])
def test_evenly_spaced_proposals_are_those_of_the_golden_values(image):
    truth = GOLDEN[f"gt.{image}/bboxes"]
    proposals = GOLDEN[f"proposals_train_cfg.{image}/bboxes"]
    matches = match(proposals, truth, "rcnn", padding=10)
    # True boxes join in front, after the assignment.
    boxes = np.concatenate([truth, proposals])
    matched = np.concatenate([np.arange(len(truth)), matches.truth])
    samples = sample(matched, None, size=512, max_positive=128)
    positive, negative = split(samples)
    key = f"loss_eval_mode/roi_sampled.{image}"
    np.testing.assert_array_equal(positive, GOLDEN[f"{key}/pos_inds"])
    np.testing.assert_array_equal(negative, GOLDEN[f"{key}/neg_inds"])
    np.testing.assert_array_equal(boxes[positive], GOLDEN[f"{key}/pos_boxes"])
    np.testing.assert_array_equal(matched[positive], GOLDEN[f"{key}/pos_assigned_gt"])


@pytest.mark.parametrize("total", [1, 2, 7, 100_003, 268_569])
def test_evenly_spaced_is_numpys_spacing(total):
    matched = jnp.full(total, BACKGROUND)
    samples = sample(matched, None, size=256, max_positive=128)
    expected = np.rint(np.linspace(0, total - 1, min(total, 256)))
    np.testing.assert_array_equal(split(samples)[1], expected)


KEYS = [None, 0, 1]


def make_key(seed):
    return None if seed is None else jax.random.key(seed)


@pytest.mark.parametrize("seed", KEYS)
@pytest.mark.parametrize(
    ("num_positive", "num_negative", "num_ignored"),
    [(50, 300, 9), (3, 300, 56), (50, 4, 305), (3, 4, 352), (0, 359, 0), (359, 0, 0)],
)
def test_counts_are_kept_and_nothing_is_chosen_twice(
    num_positive, num_negative, num_ignored, seed
):
    matched = np.repeat(
        [2, BACKGROUND, IGNORED], [num_positive, num_negative, num_ignored]
    )
    matched = np.random.default_rng(0).permutation(matched)
    samples = sample(jnp.asarray(matched), make_key(seed), size=32, max_positive=8)
    positive, negative = split(samples)
    assert len(positive) == min(num_positive, 8)
    assert len(negative) == min(num_negative, 32 - len(positive))
    assert (matched[positive] == 2).all()
    assert (matched[negative] == BACKGROUND).all()
    assert len({*positive.tolist(), *negative.tolist()}) == samples.is_valid.sum()
    # Positive ones come first, padding last.
    is_valid = np.asarray(samples.is_valid)
    np.testing.assert_array_equal(samples.is_positive, np.arange(32) < len(positive))
    assert not (is_valid[1:] & ~is_valid[:-1]).any()


@pytest.mark.parametrize("seed", KEYS)
def test_nothing_is_chosen_from_nothing(seed):
    for matched in (jnp.zeros(0, jnp.int32), jnp.full(9, IGNORED)):
        samples = sample(matched, make_key(seed), size=16, max_positive=4)
        assert samples.indices.shape == (16,)
        assert not samples.is_valid.any()
        np.testing.assert_array_equal(samples.indices, 0)


def test_every_box_is_as_likely_as_any_other():
    matched = jnp.where(jnp.arange(40) < 20, 0, BACKGROUND)
    keys = jax.random.split(jax.random.key(0), 2000)
    samples = jax.vmap(lambda key: sample(matched, key, size=10, max_positive=5))(keys)
    counts = np.bincount(samples.indices.ravel(), minlength=40)
    # 500 each; the standard deviation is 19.
    assert np.abs(counts - 500).max() < 80


def test_images_draw_with_their_own_keys_as_alone():
    rng = np.random.default_rng(0)
    matched = jnp.asarray(rng.integers(-2, 2, (3, 60)), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 3)
    draw = functools.partial(sample, size=16, max_positive=4)
    mapped = jax.vmap(draw)(matched, keys)
    for i in range(3):
        alone = draw(matched[i], keys[i])
        np.testing.assert_array_equal(mapped.indices[i], alone.indices)
        np.testing.assert_array_equal(mapped.is_valid[i], alone.is_valid)
