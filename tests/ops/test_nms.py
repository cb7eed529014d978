import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.nms import find_best_pairs, find_best_priors, suppress
from tests.ops.test_boxes import make_boxes
from tests.reference import Reference

GOLDEN = Reference("dense/det_parts")


@functools.partial(jax.jit, static_argnames=("threshold", "size", "tile"))
def keep(boxes, scores, groups, is_valid=None, *, threshold=0.5, size=400, tile=512):
    """Indices [size], -1 behind the last."""
    if is_valid is None:
        is_valid = jnp.ones(len(boxes), bool)
    options = {"threshold": threshold, "size": size, "tile": tile}
    indices, is_kept = suppress(boxes, scores, groups, is_valid, **options)
    return jnp.where(is_kept, indices, -1)


def strip(indices):
    indices = np.asarray(indices)
    return indices[indices >= 0]


@pytest.mark.gpu
@pytest.mark.parametrize("tile", [64, 512])
@pytest.mark.parametrize(
    ("name", "threshold"),
    [("keep_0.5", 0.5), ("keep_0.7", 0.7), ("batched_keep_0.5", 0.5)],
)
def test_suppression_is_the_originals(name, threshold, tile):
    boxes, scores, groups = (GOLDEN[f"nms/{x}"] for x in ("boxes", "scores", "ids"))
    groups = groups if name.startswith("batched") else 0 * groups
    kept = keep(boxes, scores, groups, threshold=threshold, tile=tile)
    np.testing.assert_array_equal(strip(kept), GOLDEN[f"nms/{name}"])


def keep_slowly(boxes, scores, groups, is_valid, threshold):
    """The definition: from the best to the worst, what no better one overlaps."""
    kept = []
    for i in sorted(np.flatnonzero(is_valid), key=lambda i: (-scores[i], i)):
        for j in kept:
            sides = np.minimum(boxes[i, 2:], boxes[j, 2:])
            sides = sides - np.maximum(boxes[i, :2], boxes[j, :2])
            overlap = np.prod(np.maximum(sides, 0))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (i, j)]
            is_near = overlap > threshold * (sum(areas) - overlap)
            if is_near and groups[i] == groups[j]:
                break
        else:
            kept.append(i)
    return kept


def make_crowd(seed, count=150):
    """Boxes on a grid, many of them equal, some without extent; many equal scores."""
    rng = np.random.default_rng(seed)
    boxes = np.round(make_boxes(count, seed) / 16) * 16
    boxes[rng.random(count) < 0.5] += 1
    return {
        "boxes": boxes,
        "scores": np.round(rng.random(count), 2).astype(np.float32),
        "groups": rng.integers(0, 3, count),
        "is_valid": rng.random(count) < 0.8,
    }


@pytest.mark.parametrize("tile", [16, 512])
@pytest.mark.parametrize("seed", range(5))
def test_kept_is_what_no_better_box_of_the_group_overlaps(seed, tile):
    crowd = make_crowd(seed)
    kept = strip(keep(**crowd, threshold=0.3, tile=tile))
    np.testing.assert_array_equal(kept, keep_slowly(**crowd, threshold=0.3))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_fewer_results_are_the_first_of_more(size):
    crowd = make_crowd(0)
    more = keep(**crowd, tile=16)
    np.testing.assert_array_equal(keep(**crowd, size=size, tile=16), more[:size])


def test_a_chain_of_overlaps_is_followed_to_its_end():
    # Each box overlaps the next: every second one stays, in one tile of 100.
    x = np.arange(100, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 3, 0 * x + 1], 1)
    kept = keep(boxes, -x, np.zeros(100, int), threshold=0.4)
    np.testing.assert_array_equal(strip(kept), np.arange(0, 100, 2))


def test_the_order_of_boxes_does_not_matter():
    crowd = make_crowd(1)
    crowd["scores"] = np.random.default_rng(1).permutation(150).astype(np.float32)
    order = np.random.default_rng(0).permutation(150)
    shuffled = {name: array[order] for name, array in crowd.items()}
    kept, of_shuffled = strip(keep(**crowd)), strip(keep(**shuffled))
    np.testing.assert_array_equal(kept, order[of_shuffled])


def test_overlaps_of_the_threshold_exactly_stay():
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 2, 1]])
    scores, groups = np.float32([2, 1]), np.zeros(2, int)
    np.testing.assert_array_equal(strip(keep(boxes, scores, groups)), [0, 1])
    kept = keep(boxes, scores, groups, threshold=0.499)
    np.testing.assert_array_equal(strip(kept), [0])


def test_boxes_without_area_never_overlap():
    boxes = np.float32([[5, 5, 5, 5], [5, 5, 5, 5], [5, 0, 5, 9]])
    kept = keep(boxes, np.float32([1, 3, 2]), np.zeros(3, int))
    np.testing.assert_array_equal(strip(kept), [1, 2, 0])


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_is_kept_of_nothing(count):
    nothing = np.zeros(count, bool)
    kept = keep(np.zeros((count, 4)), np.zeros(count), np.zeros(count, int), nothing)
    assert kept.shape == (400,)
    np.testing.assert_array_equal(kept, -1)


def test_images_are_suppressed_as_alone():
    crowds = [make_crowd(seed) for seed in range(3)]
    batch = {name: np.stack([crowd[name] for crowd in crowds]) for name in crowds[0]}
    mapped = jax.vmap(lambda crowd: keep(**crowd, tile=16))(batch)
    for i, crowd in enumerate(crowds):
        np.testing.assert_array_equal(mapped[i], keep(**crowd, tile=16))


@pytest.mark.parametrize("size", [5, 40, 500])
def test_the_best_pairs_are_the_first_of_all_sorted(size):
    # Many scores are equal.
    scores = np.round(np.random.default_rng(0).random((30, 4)), 1).astype(np.float32)
    pairs = find_best_pairs(jnp.asarray(scores), size, 0.3)
    order = np.argsort(-scores.ravel(), kind="stable")[:size]
    np.testing.assert_array_equal(pairs.priors * 4 + pairs.labels, order)
    np.testing.assert_array_equal(pairs.scores, scores.ravel()[order])
    np.testing.assert_array_equal(pairs.is_valid, scores.ravel()[order] > 0.3)


def test_the_best_priors_keep_their_order():
    scores = jnp.array([[0.1, 0.2], [0.9, 0.0], [0.3, 0.3], [0.2, 0.8]])
    np.testing.assert_array_equal(find_best_priors(scores, 2), [1, 3])
    np.testing.assert_array_equal(find_best_priors(scores, 9), [0, 1, 2, 3])
    assert find_best_priors(scores[:0], 9).shape == (0,)
    assert find_best_pairs(scores[:0], 9, 0.5).scores.shape == (0,)
