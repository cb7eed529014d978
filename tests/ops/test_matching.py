import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.anchors import create_anchors
from litv2_jax.ops.matching import BACKGROUND, IGNORED, match_boxes
from tests.ops.test_anchors import CASES
from tests.ops.test_boxes import make_boxes
from tests.reference import AS_USERS, Reference

GOLDEN = Reference("dense/det_parts")
RULES = {
    "retina": {"positive": 0.5, "negative": 0.4, "min_positive": 0.0},
    "rpn": {"positive": 0.7, "negative": 0.3, "min_positive": 0.3},
    "rcnn": {"positive": 0.5, "negative": 0.5, "min_positive": 0.5},
}


@functools.partial(jax.jit, static_argnames="rule", compiler_options=AS_USERS)
def match_padded(priors, truth, priors_valid, truth_valid, rule):
    return match_boxes(
        priors, truth, priors_valid=priors_valid, truth_valid=truth_valid, **RULES[rule]
    )


def match(priors, truth, rule, *, padding=0, num_valid=None):
    """Matches the first priors, with padding behind the true boxes."""
    padded = np.pad(truth, ((0, padding), (0, 0)))
    num_valid = len(priors) if num_valid is None else num_valid
    priors_valid = np.arange(len(priors)) < num_valid
    truth_valid = np.arange(len(padded)) < len(truth)
    return jax.device_get(match_padded(priors, padded, priors_valid, truth_valid, rule))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("rule", RULES)
def test_assignment_is_the_originals(rule, padding):
    priors, truth = GOLDEN["maxiou/priors"], GOLDEN["maxiou/gts"]
    matches = match(priors, truth, rule, padding=padding)
    expected = GOLDEN[f"maxiou/{rule}/gt_inds"] - 1  # 0 is background there.
    np.testing.assert_array_equal(matches.truth, expected)
    assert GOLDEN.difference(f"maxiou/{rule}/max_overlaps", matches.overlaps) == 0


@pytest.mark.parametrize("image", [0, 1])
def test_assignment_of_a_whole_pyramid_is_the_originals(image):
    name = "dense/retina_tiny_ws2"
    golden, (_, *shapes) = Reference(name), CASES[name]
    sizes = golden["featmap_sizes"].tolist()
    priors = np.concatenate(create_anchors(sizes, *shapes))
    matches = match(priors, golden[f"gt.{image}/bboxes"], "retina", padding=20)
    key = f"assign.{image}"
    np.testing.assert_array_equal(matches.truth, golden[f"{key}/gt_inds"] - 1)
    assert golden.difference(f"{key}/max_overlaps", matches.overlaps) == 0


def match_slowly(priors, truth, rule):
    """mmdetection's loops, one box at a time."""
    positive, negative, min_positive = RULES[rule].values()
    overlaps = np.zeros((len(priors), len(truth)), np.float32)
    for i, j in np.ndindex(overlaps.shape):
        a, b = priors[i], truth[j]
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        overlap = np.prod(np.maximum(sides, 0))
        areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
        overlaps[i, j] = overlap / max(areas - overlap, np.float32(1e-6))
    best = overlaps.max(1)
    result = np.where(best < negative, BACKGROUND, IGNORED)
    result[best >= positive] = overlaps.argmax(1)[best >= positive]
    for j in range(len(truth)):
        if overlaps[:, j].max() >= min_positive:
            result[overlaps[:, j] == overlaps[:, j].max()] = j
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", RULES)
def test_assignment_follows_the_rules(rule, seed):
    rng = np.random.default_rng(seed)
    # Whole pixels: many overlaps are equal.
    priors = np.round(make_boxes(60, seed) / 8) * 8
    truth = np.concatenate([np.round(make_boxes(4, seed + 9) / 8) * 8, priors[:2]])
    truth[3] = [200, 200, 210, 210]  # Far from all priors.
    truth[2, 2:] = truth[2, :2]  # Without extent.
    truth = rng.permutation(truth)
    matches = match(priors, truth, rule, padding=2)
    np.testing.assert_array_equal(matches.truth, match_slowly(priors, truth, rule))


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_priors_does_not_matter(rule):
    priors, truth = make_boxes(50), make_boxes(5, seed=1)
    order = np.random.default_rng(0).permutation(50)
    straight, shuffled = match(priors, truth, rule), match(priors[order], truth, rule)
    np.testing.assert_array_equal(straight.truth[order], shuffled.truth)
    np.testing.assert_array_equal(straight.overlaps[order], shuffled.overlaps)


@pytest.mark.parametrize("rule", RULES)
def test_priors_beyond_the_image_are_ignored_and_nobodys_best(rule):
    priors, truth = make_boxes(50), make_boxes(5, seed=1)
    # Even those equal to a true box.
    priors[30:35] = truth
    matches = match(priors, truth, rule, num_valid=30)
    np.testing.assert_array_equal(
        matches.truth[:30], match(priors[:30], truth, rule).truth
    )
    np.testing.assert_array_equal(matches.truth[30:], IGNORED)


@pytest.mark.parametrize("num_truth", [0, 3])
@pytest.mark.parametrize("rule", RULES)
def test_an_image_without_objects_is_background(rule, num_truth):
    truth, truth_valid = np.zeros((num_truth, 4)), np.zeros(num_truth, bool)
    priors_valid = np.arange(6) < 5
    matches = match_padded(make_boxes(6), truth, priors_valid, truth_valid, rule)
    np.testing.assert_array_equal(matches.truth, [BACKGROUND] * 5 + [IGNORED])
    np.testing.assert_array_equal(matches.overlaps, 0)
    assert matches.truth.dtype == jnp.int32


def test_no_priors_have_no_matches():
    assert match(np.zeros((0, 4)), make_boxes(2), "rpn").truth.shape == (0,)


def test_images_are_matched_as_alone():
    priors = jnp.asarray(make_boxes(40))
    truth = jnp.asarray(make_boxes(12, seed=1)).reshape(3, 4, 4)
    is_valid = jnp.arange(4)[None] < jnp.array([4, 2, 0])[:, None]

    def match_one(truth, truth_valid):
        return match_padded(priors, truth, np.ones(40, bool), truth_valid, "retina")

    mapped = jax.vmap(match_one)(truth, is_valid)
    for i in range(3):
        alone = match_one(truth[i], is_valid[i])
        np.testing.assert_array_equal(mapped.truth[i], alone.truth)
        np.testing.assert_array_equal(mapped.overlaps[i], alone.overlaps)
