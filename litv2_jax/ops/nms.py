"""Chooses the boxes to report: candidates by score, and non-maximum suppression.

Everything here sorts or loops: map it over images by `map_images`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from litv2_jax.ops.boxes import compute_iou


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """Pairs of a prior and a class by descending score.

    Attributes:
        priors: int32 [S].
        labels: int32 [S].
        scores: float32 [S].
        is_valid: bool [S], which scores are above the threshold.
    """

    priors: jax.Array
    labels: jax.Array
    scores: jax.Array
    is_valid: jax.Array


def find_best_priors(scores: jax.Array, size: int) -> jax.Array:
    """Returns the priors with the best class scores, [N, K] -> int32 [min(size, N)].

    They come in their own order, not by score.
    """
    count = min(size, scores.shape[0])
    best = scores.astype(jnp.float32).max(axis=1)
    return jnp.sort(jax.lax.top_k(best, count)[1])


def find_best_pairs(scores: jax.Array, size: int, threshold: float) -> Candidates:
    """Returns up to `size` pairs of a prior and a class with the best scores.

    Of equal scores, those of the earlier prior come first, then the smaller class.

    Args:
        scores: [N, K].
        size: S is this, or N * K if that is less.
        threshold: Scores up to this are not valid.
    """
    scores = scores.astype(jnp.float32)
    num_classes = scores.shape[1]
    # The best pairs belong to as many priors at most: few are left to sort.
    priors = find_best_priors(scores, size)
    pairs = scores[priors].ravel()
    best, index = jax.lax.top_k(pairs, min(size, pairs.size))
    return Candidates(
        priors[index // num_classes], index % num_classes, best, best > threshold
    )


def suppress(
    boxes: jax.Array,
    scores: jax.Array,
    groups: jax.Array,
    is_valid: jax.Array,
    *,
    threshold: float,
    size: int,
    tile: int = 512,
) -> tuple[jax.Array, jax.Array]:
    """Drops boxes that overlap a better one of their group, and returns the best.

    As `batched_nms` of mmcv: groups are moved apart by the largest coordinate in
    float32, and boxes that overlap by the threshold exactly stay. Tiles of boxes by
    descending score are compared with what earlier ones kept, then within themselves;
    a tile after `size` kept boxes would change nothing.

    Args:
        boxes: [N, 4], none of them left of or above 0.
        scores: [N]; of equal ones the first counts as the better.
        groups: Integers [N], such as classes or levels.
        is_valid: bool [N].
        threshold: Greatest overlap of two boxes that both stay.
        size: S, the number of results.
        tile: Boxes that are compared at once.

    Returns:
        Indices int32 [S] of what is kept by descending score, 0 where there is nothing
        more to keep, and bool [S], which count.
    """
    num_boxes = boxes.shape[0]
    if not num_boxes:
        return jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
    boxes, scores = boxes.astype(jnp.float32), scores.astype(jnp.float32)
    order = jnp.argsort(jnp.where(is_valid, -scores, jnp.inf), stable=True)
    largest = jnp.max(boxes, initial=0.0, where=is_valid[:, None])
    apart = boxes + (groups.astype(jnp.float32) * (largest + 1))[:, None]

    tile = min(tile, num_boxes)
    padding = -num_boxes % tile
    apart = jnp.pad(apart[order], ((0, padding), (0, 0)))
    alive = jnp.pad(is_valid[order], (0, padding))
    kept, num_kept = _keep(apart, alive, threshold, size, tile)
    is_kept = jnp.arange(size) < num_kept
    return jnp.where(is_kept, order[kept], 0).astype(jnp.int32), is_kept


def _keep(
    boxes: jax.Array, is_valid: jax.Array, threshold: float, size: int, tile: int
) -> tuple[jax.Array, jax.Array]:
    """Returns what is kept of sorted boxes: indices int32 [size] and their number."""
    slots, places = jnp.arange(size), jnp.arange(tile)
    is_better = places[:, None] < places[None]
    num_valid = is_valid.sum()

    def step(state):
        start, num_kept, kept = state
        mine = jax.lax.dynamic_slice_in_dim(boxes, start, tile)
        alive = jax.lax.dynamic_slice_in_dim(is_valid, start, tile)
        hits = _overlap(boxes[kept], mine, threshold) & (slots < num_kept)[:, None]
        hits_within = _overlap(mine, mine, threshold) & is_better
        alive = _settle(hits_within, alive & ~hits.any(axis=0))
        slot = jnp.where(alive, num_kept + jnp.cumsum(alive) - 1, size)
        kept = kept.at[slot].set(start + places, mode="drop")
        return start + tile, jnp.minimum(num_kept + alive.sum(), size), kept

    def continues(state):
        start, num_kept, _ = state
        return (start < num_valid) & (num_kept < size)

    start = (jnp.int32(0), jnp.int32(0), jnp.zeros(size, jnp.int32))
    _, num_kept, kept = jax.lax.while_loop(continues, step, start)
    return kept, num_kept


def _overlap(a: jax.Array, b: jax.Array, threshold: float) -> jax.Array:
    """Returns which pairs overlap by more, bool [N, M]; boxes without area do not."""
    # mmcv has no smallest union; this one is none, but that 0 / 0 is 0.
    return compute_iou(a, b, min_union=1e-30) > threshold


def _settle(hits: jax.Array, is_valid: jax.Array) -> jax.Array:
    """Returns which boxes bool [N] stay: the valid ones that none that stays hits.

    From all valid ones, each turn is right about one link more of every chain of hits,
    so nothing changes after as many turns as the longest has.

    Args:
        hits: bool [N, N], whether box i drops box j > i if it stays.
        is_valid: bool [N].
    """

    def step(state):
        stays, _ = state
        new = is_valid & ~(hits & stays[:, None]).any(axis=0)
        return new, (new != stays).any()

    start = (is_valid, jnp.bool_(True))
    return jax.lax.while_loop(lambda state: state[1], step, start)[0]
