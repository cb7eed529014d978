"""The boxes that a detector reports, from what its heads predict.

Everything here is of one image, and sorts or loops: map it by `map_images`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from litv2_jax.ops.boxes import decode_boxes, have_extent
from litv2_jax.ops.nms import find_best_pairs, find_best_priors, suppress

# Versions of mmdetection whose rules are known; the published models are of the first.
RULES = ("2.11", "3.2")

MIN_SCORE = 0.05
NUM_DETECTIONS = 100
# Anchors, or in 3.2 pairs of an anchor and a class, taken of each level.
NUM_PER_LEVEL = 1000
# Pairs with the best scores that are looked at. The original takes all above
# `MIN_SCORE`; models report their 100 boxes long before this many.
NUM_DENSE_PAIRS = 6000
NUM_ROI_PAIRS = 4000
BOX_OVERLAP, PROPOSAL_OVERLAP = 0.5, 0.7
# What the box head's deltas are multiplied by.
ROI_STDS = (0.1, 0.1, 0.2, 0.2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredBoxes:
    """Boxes that may be reported, or proposals.

    Attributes:
        boxes: float32 [S, 4] in pixels of the resized image.
        scores: float32 [S].
        labels: int32 [S], the class, or of a proposal the level.
        is_valid: bool [S].
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    is_valid: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Detections:
    """What is reported, by descending score; zeros after the last.

    Attributes:
        boxes: float32 [B, 100, 4] in pixels of the image before it was resized.
        scores: float32 [B, 100].
        labels: int32 [B, 100].
        count: int32 [B], how many there are.
        masks: float32 [B, 100, 28, 28], the probability of each part of a box to belong
            to the object; None for a model without masks.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    count: jax.Array
    masks: jax.Array | None = None


def check_rule(rule: str) -> None:
    """Raises ValueError if no such rule is known."""
    if rule not in RULES:
        raise ValueError(
            f"rule={rule!r} is no version of mmdetection whose rule is known; use "
            f"{' or '.join(RULES)}."
        )


@jax.named_scope("post-processing")
def find_dense_candidates(
    scores: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    image_size: jax.Array,
    rule: str,
) -> ScoredBoxes:
    """Returns the boxes of RetinaNet that suppression is to choose from.

    Rule 2.11 takes the best anchors of each level by their best class, with all their
    classes; 3.2 takes pairs of an anchor and a class, and drops boxes that clipping
    left without extent.

    Args:
        scores: [N, K] of each level; 0 excludes an anchor.
        deltas: [N, 4] of each level.
        anchors: [N, 4] of each level.
        image_size: [2] height and width.
        rule: One of `RULES`.
    """
    levels = zip(scores, deltas, anchors, strict=True)
    if rule == "2.11":
        boxes, chosen = [], []
        for score, delta, anchor in levels:
            best = find_best_priors(score, NUM_PER_LEVEL)
            chosen.append(score[best])
            boxes.append(decode_boxes(delta[best], anchor[best], image_size=image_size))
        pairs = find_best_pairs(jnp.concatenate(chosen), NUM_DENSE_PAIRS, MIN_SCORE)
        boxes = jnp.concatenate(boxes)[pairs.priors]
        return ScoredBoxes(boxes, pairs.scores, pairs.labels, pairs.is_valid)
    found = []
    for score, delta, anchor in levels:
        pairs = find_best_pairs(score, NUM_PER_LEVEL, MIN_SCORE)
        priors = pairs.priors
        boxes = decode_boxes(delta[priors], anchor[priors], image_size=image_size)
        is_valid = pairs.is_valid & have_extent(boxes)
        found.append(ScoredBoxes(boxes, pairs.scores, pairs.labels, is_valid))
    return _concatenate(found)


def find_proposals(
    scores: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    image_size: jax.Array,
    *,
    num_per_level: int,
    size: int,
    rule: str,
) -> ScoredBoxes:
    """Returns the boxes that the heads of Mask R-CNN look at, by descending score.

    Args:
        scores: [N] of each level; negative ones exclude an anchor.
        deltas: [N, 4] of each level.
        anchors: [N, 4] of each level.
        image_size: [2] height and width.
        num_per_level: Anchors taken of each level, 1000, or 2000 in training.
        size: Number of proposals S.
        rule: One of `RULES`; 3.2 drops boxes without extent.
    """
    found = []
    for level, (score, delta, anchor) in enumerate(
        zip(scores, deltas, anchors, strict=True)
    ):
        best, index = jax.lax.top_k(score, min(num_per_level, len(score)))
        boxes = decode_boxes(delta[index], anchor[index], image_size=image_size)
        is_valid = best >= 0
        if rule == "3.2":
            is_valid &= have_extent(boxes)
        found.append(ScoredBoxes(boxes, best, jnp.full(len(best), level), is_valid))
    return _suppress(_concatenate(found), PROPOSAL_OVERLAP, size)


@jax.named_scope("post-processing")
def find_roi_candidates(
    logits: jax.Array,
    deltas: jax.Array,
    proposals: ScoredBoxes,
    image_size: jax.Array,
) -> ScoredBoxes:
    """Returns the boxes of Mask R-CNN that suppression is to choose from.

    Args:
        logits: [N, K + 1], the last of which is background.
        deltas: [N, K, 4].
        proposals: Of N boxes.
        image_size: [2] height and width.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32))[:, :-1]
    scores = jnp.where(proposals.is_valid[:, None], scores, 0)
    pairs = find_best_pairs(scores, NUM_ROI_PAIRS, MIN_SCORE)
    boxes = decode_boxes(
        deltas[pairs.priors, pairs.labels],
        proposals.boxes[pairs.priors],
        stds=ROI_STDS,
        image_size=image_size,
    )
    return ScoredBoxes(boxes, pairs.scores, pairs.labels, pairs.is_valid)


@jax.named_scope("post-processing")
def choose_detections(candidates: ScoredBoxes, factor: jax.Array) -> Detections:
    """Returns the best boxes that do not overlap a better one of their class.

    Args:
        candidates: In pixels of the resized image.
        factor: [4], what the image's x, y, x and y were multiplied by when it was
            resized. As in mmdetection boxes are divided by it before suppression.
    """
    boxes = candidates.boxes / factor[None]
    scaled = dataclasses.replace(candidates, boxes=boxes)
    chosen = _suppress(scaled, BOX_OVERLAP, NUM_DETECTIONS)
    count = chosen.is_valid.sum(dtype=jnp.int32)
    return Detections(chosen.boxes, chosen.scores, chosen.labels, count)


def _suppress(found: ScoredBoxes, threshold: float, size: int) -> ScoredBoxes:
    index, is_kept = suppress(
        found.boxes,
        found.scores,
        found.labels,
        found.is_valid,
        threshold=threshold,
        size=size,
    )
    return ScoredBoxes(
        jnp.where(is_kept[:, None], found.boxes[index], 0),
        jnp.where(is_kept, found.scores[index], 0),
        jnp.where(is_kept, found.labels[index], 0),
        is_kept,
    )


def _concatenate(found: Sequence[ScoredBoxes]) -> ScoredBoxes:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
