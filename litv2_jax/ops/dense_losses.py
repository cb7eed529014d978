"""Losses of heads that predict something for every anchor: RetinaNet's, and the RPN's.

What follows is mmdetection's; see `detection_losses.average_groups` for what the sums
are divided by. A loss is float32 [levels], which add up to the original's.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from litv2_jax.ops.boxes import encode_boxes
from litv2_jax.ops.detection_losses import (
    average_groups,
    binary_cross_entropy,
    focal_loss,
    smooth_l1_loss,
)
from litv2_jax.ops.matching import IGNORED, match_boxes
from litv2_jax.ops.per_image import map_images
from litv2_jax.ops.sampling import Samples, sample_matches
from litv2_jax.ops.truth import Truth, clamp_truth

# Overlaps that decide, see `match_boxes`.
RETINANET = {"positive": 0.5, "negative": 0.4, "min_positive": 0.0}
RPN = {"positive": 0.7, "negative": 0.3, "min_positive": 0.3}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnchorScores:
    """What a head predicts for each anchor, by level.

    Attributes:
        logits: float32 [B, N], whether an anchor has an object, or [B, N, K].
        deltas: float32 [B, N, 4].
        anchors: float32 [N, 4].
        is_inside: bool [B, N], which anchors an image has; others do not count.
    """

    logits: list[jax.Array]
    deltas: list[jax.Array]
    anchors: list[jax.Array]
    is_inside: list[jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseTargets:
    """What RetinaNet is to predict for all anchors in a row.

    Attributes:
        matched: int32 [B, N], the true box, or as in `match_boxes`.
        labels: int32 [B, N], its class, K where there is none.
        deltas: float32 [B, N, 4], which have a meaning where there is one.
    """

    matched: jax.Array
    labels: jax.Array
    deltas: jax.Array


def find_retinanet_targets(
    anchors: Sequence[jax.Array],
    is_inside: Sequence[jax.Array],
    truth: Truth,
    num_classes: int,
) -> DenseTargets:
    """Returns what `compute_retinanet_losses` compares predictions with.

    Args:
        anchors: As in `compute_retinanet_losses`.
        is_inside: As in `compute_retinanet_losses`.
        truth: As in `compute_retinanet_losses`.
        num_classes: K.
    """
    every = jnp.concatenate(anchors)

    def match(is_inside: jax.Array, truth: Truth) -> DenseTargets:
        matched = match_boxes(
            every,
            truth.boxes,
            priors_valid=is_inside,
            truth_valid=truth.is_valid,
            **RETINANET,
        ).truth
        own = clamp_truth(matched)
        labels = jnp.where(matched >= 0, truth.labels[own], num_classes)
        return DenseTargets(matched, labels, encode_boxes(truth.boxes[own], every))

    return jax.vmap(match)(jnp.concatenate(is_inside, axis=1), truth)


@jax.named_scope("losses")
def compute_retinanet_losses(
    scored: AnchorScores, truth: Truth, group_size: int
) -> dict[str, jax.Array]:
    """Returns `class_loss`, the focal loss, and `box_loss`, L1 of the deltas.

    Args:
        scored: Of B images, with logits [B, N, K].
        truth: Of B images.
        group_size: Images that a GPU had; 0 takes all of the batch together.
    """
    num_classes = scored.logits[0].shape[-1]
    targets = find_retinanet_targets(
        scored.anchors, scored.is_inside, truth, num_classes
    )
    matched = targets.matched
    class_sums, box_sums = [], []
    for i, part in enumerate(_split(scored.anchors)):
        losses = focal_loss(scored.logits[i], targets.labels[:, part]).sum(axis=-1)
        class_sums.append(_sum_where(matched[:, part] != IGNORED, losses))
        losses = smooth_l1_loss(scored.deltas[i], targets.deltas[:, part]).sum(axis=-1)
        box_sums.append(_sum_where(matched[:, part] >= 0, losses))
    # An image without objects counts as one positive.
    counts = jnp.maximum((matched >= 0).sum(axis=1), 1)
    return {
        "class_loss": average_groups(jnp.stack(class_sums, 1), counts, group_size),
        "box_loss": average_groups(jnp.stack(box_sums, 1), counts, group_size),
    }


@jax.named_scope("losses")
def compute_rpn_losses(
    scored: AnchorScores,
    truth: Truth,
    keys: jax.Array | None,
    group_size: int,
    *,
    num_samples: int = 256,
) -> dict[str, jax.Array]:
    """Returns `rpn_class_loss`, a cross-entropy, and `rpn_box_loss`, L1 of the deltas.

    Both are of sampled anchors.

    Args:
        scored: Of B images, with logits [B, N].
        truth: Of B images.
        keys: Key data [B, ...] of each image; None samples evenly spaced anchors.
        group_size: Images that a GPU had; 0 takes all of the batch together.
        num_samples: Anchors of each image, at most half of them positive.
    """
    samples, own = sample_anchors(scored, truth, keys, num_samples)
    every = jnp.concatenate(scored.anchors)
    sizes = [len(anchors) for anchors in scored.anchors]
    levels = jnp.asarray(np.repeat(np.arange(len(sizes)), sizes))

    def sum_losses(logits, deltas, truth_boxes, samples: Samples, own):
        index = samples.indices
        losses = binary_cross_entropy(logits[index], samples.is_positive)
        class_losses = jnp.where(samples.is_valid, losses, 0)
        targets = encode_boxes(truth_boxes[own], every[index])
        losses = smooth_l1_loss(deltas[index], targets).sum(axis=-1)
        box_losses = jnp.where(samples.is_positive, losses, 0)
        is_level = levels[index][:, None] == jnp.arange(len(sizes))[None]
        return tuple(
            jnp.where(is_level, x[:, None], 0).sum(axis=0)
            for x in (class_losses, box_losses)
        )

    class_sums, box_sums = jax.vmap(sum_losses)(
        jnp.concatenate(scored.logits, axis=1),
        jnp.concatenate(scored.deltas, axis=1),
        truth.boxes,
        samples,
        own,
    )
    counts = samples.is_valid.sum(axis=1)
    return {
        "rpn_class_loss": average_groups(class_sums, counts, group_size),
        "rpn_box_loss": average_groups(box_sums, counts, group_size),
    }


def sample_anchors(
    scored: AnchorScores, truth: Truth, keys: jax.Array | None, num_samples: int
) -> tuple[Samples, jax.Array]:
    """Returns the anchors that the RPN trains on, and their true boxes, int32 [B, S].

    Args:
        scored: As in `compute_rpn_losses`.
        truth: As in `compute_rpn_losses`.
        keys: As in `compute_rpn_losses`.
        num_samples: As in `compute_rpn_losses`.
    """
    every = jnp.concatenate(scored.anchors)

    def sample(is_inside: jax.Array, truth: Truth, key: jax.Array | None = None):
        matched = match_boxes(
            every,
            truth.boxes,
            priors_valid=is_inside,
            truth_valid=truth.is_valid,
            **RPN,
        ).truth
        key = None if key is None else jax.random.wrap_key_data(key)
        samples = sample_matches(
            matched, size=num_samples, max_positive=num_samples // 2, key=key
        )
        return samples, clamp_truth(matched[samples.indices])

    inputs = (jnp.concatenate(scored.is_inside, axis=1), truth)
    return map_images(sample, *inputs, *(() if keys is None else (keys,)))


def _split(anchors: Sequence[jax.Array]) -> list[slice]:
    """Returns where each level is in a row of all."""
    ends = [sum(len(x) for x in anchors[: i + 1]) for i in range(len(anchors))]
    return [slice(end - len(x), end) for end, x in zip(ends, anchors, strict=True)]


def _sum_where(is_counted: jax.Array, losses: jax.Array) -> jax.Array:
    """[B, N], [B, N] -> [B]."""
    return jnp.where(is_counted, losses, 0).sum(axis=1)
