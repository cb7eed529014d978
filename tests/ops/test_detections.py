import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.anchors import create_anchors
from litv2_jax.ops.detections import (
    ScoredBoxes,
    check_rule,
    choose_detections,
    find_dense_candidates,
    find_proposals,
    find_roi_candidates,
)
from tests.ops.test_anchors import RETINANET
from tests.reference import SEED, Reference, dense_rules

GOLDEN = Reference("dense/det_parts")


@functools.partial(jax.jit, static_argnames="rule")
def find(scores, deltas, anchors, size, factor, rule):
    found = find_dense_candidates(scores, deltas, anchors, size, rule)
    return found, choose_detections(found, factor)


def make_outputs():
    """RetinaNet's outputs that the golden values give by rule."""
    sizes = GOLDEN["post/sizes"].tolist()
    scores, deltas = [], []
    for i, size in enumerate(sizes):
        cls_score, bbox_pred = (
            dense_rules.normal(f"input.{name}.{i}", (1, channels, *size), SEED)
            for name, channels in (("cls_score", 720), ("bbox_pred", 36))
        )
        logits = (1.3 * cls_score - np.float32(4.6)).astype(np.float32)
        logits = logits[0].transpose(1, 2, 0).reshape(-1, 80)
        scores.append(jax.nn.sigmoid(jnp.asarray(logits)))
        delta = (np.float32(0.4) * bbox_pred).astype(np.float32)
        deltas.append(jnp.asarray(delta[0].transpose(1, 2, 0).reshape(-1, 4)))
    return scores, deltas, create_anchors(sizes, *RETINANET)


@pytest.mark.parametrize("is_rescaled", [False, True])
def test_detections_of_given_outputs_are_the_originals(is_rescaled):
    size = jnp.asarray(GOLDEN["post/hw_imghw"][2:])
    factor = np.tile(GOLDEN["post/scale_factor_w_h"], 2).astype(np.float32)
    factor = factor if is_rescaled else np.ones(4, np.float32)
    found, detections = find(*make_outputs(), size, factor, rule="3.2")
    assert found.is_valid.sum() == GOLDEN["post/candidates_before_nms"]
    for key, values, rows in (
        ("post/before_nms", found, found.is_valid),
        (f"post/dets_rescale{int(is_rescaled)}", detections, slice(100)),
    ):
        assert GOLDEN.difference(f"{key}/bboxes", values.boxes[rows]) < 1e-3
        assert GOLDEN.difference(f"{key}/scores", values.scores[rows]) < 1e-6
        assert GOLDEN.difference(f"{key}/labels", values.labels[rows]) == 0
    assert detections.count == 100


@pytest.mark.parametrize("rule", ["2.11", "3.2"])
def test_a_confident_box_is_reported_in_pixels_of_the_picture(rule):
    anchors = create_anchors([(8, 12), (4, 6)], *(x[:2] for x in RETINANET[:1]), (4,))
    scores = [jnp.full((len(x), 5), 0.01) for x in anchors]
    deltas = [jnp.zeros((len(x), 4)) for x in anchors]
    # The second anchor, a square of 32 pixels, at row 1 and column 2 of 12.
    index = (1 * 12 + 2) * 3 + 1
    scores[0] = scores[0].at[index, 3].set(0.9)
    factor = np.float32([1, 0.5, 1, 0.5])
    size = np.array([64, 96])
    _, found = find(scores, deltas, anchors, size, factor, rule=rule)
    assert found.count == 1
    assert found.labels[0] == 3
    np.testing.assert_allclose(found.scores[0], 0.9)
    np.testing.assert_allclose(found.boxes[0], [0, 0, 32, 48])
    for rest in (found.boxes[1:], found.scores[1:], found.labels[1:]):
        np.testing.assert_array_equal(rest, 0)


def test_the_rules_differ_in_boxes_without_extent_and_in_what_a_level_offers():
    """2.11 takes all classes of the best anchors, 3.2 the best pairs."""
    anchors = [np.tile(np.float32([[10, 10, 20, 20]]), (1200, 1))]
    anchors[0][:1100] = [200, 0, 210, 10]  # Beyond an image of 100 pixels.
    scores = np.full((1200, 3), 0.06, np.float32)
    scores[:1100, 0] = 0.5
    arguments = ([jnp.asarray(scores)], [jnp.zeros((1200, 4))], anchors)
    size, factor = np.array([100, 100]), np.ones(4, np.float32)
    found = {
        rule: find(*arguments, size, factor, rule=rule) for rule in ("2.11", "3.2")
    }
    # Each of these overlaps nothing: as many as are reported stay.
    assert found["2.11"][1].count == 100
    assert found["2.11"][0].is_valid.sum() == 3000
    assert found["3.2"][1].count == 0


@pytest.mark.parametrize("rule", ["2.11", "3.2"])
def test_proposals_leave_out_excluded_anchors(rule):
    anchors = [np.float32([[0, 0, 8, 8], [20, 20, 28, 28], [200, 0, 208, 8]])] * 2
    scores = [jnp.array([0.9, -1, 0.5]), jnp.array([-1, 0.7, -1])]
    deltas = [jnp.zeros((3, 4))] * 2
    options = {"num_per_level": 2, "size": 5, "rule": rule}
    size = np.array([100, 100])
    found = jax.jit(lambda *a: find_proposals(*a, size, **options))(
        scores, deltas, anchors
    )
    count = {"2.11": 3, "3.2": 2}[rule]  # One is beyond the image.
    np.testing.assert_array_equal(found.is_valid, np.arange(5) < count)
    np.testing.assert_allclose(found.scores[:2], [0.9, 0.7])
    np.testing.assert_allclose(found.boxes[:2], [[0, 0, 8, 8], [20, 20, 28, 28]])
    np.testing.assert_array_equal(found.labels[:2], [0, 1])


def test_the_box_of_the_own_class_is_taken():
    proposals = ScoredBoxes(
        jnp.array([[10.0, 10, 30, 50], [0, 0, 9, 9]]),
        jnp.ones(2),
        jnp.zeros(2, int),
        jnp.array([True, False]),
    )
    deltas = jnp.zeros((2, 3, 4)).at[0, 1].set(jnp.array([1.0, 0, 0, math.log(2) * 5]))
    logits = jnp.array([[0.0, 9, 0, 8], [9, 0, 0, 0]])
    found = find_roi_candidates(logits, deltas, proposals, jnp.array([100, 100]))
    assert found.is_valid.tolist() == [True, *[False] * 5]
    assert found.labels[0] == 1
    # A tenth of the width to the right, and twice as high.
    np.testing.assert_allclose(found.boxes[0], [12, 0, 32, 70], rtol=1e-5)


def test_nothing_is_chosen_of_nothing():
    nothing = ScoredBoxes(
        jnp.zeros((7, 4)), jnp.zeros(7), jnp.zeros(7, int), jnp.zeros(7, bool)
    )
    found = choose_detections(nothing, jnp.ones(4))
    assert found.count == 0
    assert found.boxes.shape == (100, 4)
    np.testing.assert_array_equal(found.boxes, 0)


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"rule='2.12' .* use 2.11 or 3.2"):
        check_rule("2.12")
