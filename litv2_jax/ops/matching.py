"""Assigns anchors or proposals to the true boxes they overlap most.

Equal to mmdetection's `MaxIoUAssigner` without boxes to ignore.
"""

import dataclasses

import jax
import jax.numpy as jnp

from litv2_jax.ops.boxes import compute_iou

BACKGROUND, IGNORED = -1, -2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matches:
    """What became of each prior.

    Attributes:
        truth: int32 [N], the index of its true box, `BACKGROUND` or `IGNORED`.
        overlaps: float32 [N], with the true box that it overlaps most.
    """

    truth: jax.Array
    overlaps: jax.Array


def match_boxes(
    priors: jax.Array,
    truth: jax.Array,
    *,
    priors_valid: jax.Array,
    truth_valid: jax.Array,
    positive: float,
    negative: float,
    min_positive: float,
) -> Matches:
    """Gives each prior the true box it overlaps most, or none, or ignores it.

    Then each true box takes every prior that overlaps it as much as any does, though
    that be less than `positive`; of several such true boxes the last wins, and priors
    are taken from others that they overlap more. All that is mmdetection's.

    Args:
        priors: [N, 4].
        truth: [G, 4], padded.
        priors_valid: bool [N]; the others are ignored and nobody's best.
        truth_valid: bool [G].
        positive: Overlap from which a prior belongs to a true box.
        negative: Overlap below which it is background; between the two it is ignored.
        min_positive: Least overlap by which a true box takes its best priors. With 0, a
            true box that overlaps nothing takes every prior that it does not overlap.
    """
    if not truth.shape[0]:
        nothing = jnp.where(priors_valid, BACKGROUND, IGNORED)
        return Matches(nothing, jnp.zeros(priors.shape[0]))
    # Below every overlap: padding is nobody's best.
    is_pair = priors_valid[:, None] & truth_valid[None]
    overlaps = jnp.where(is_pair, compute_iou(priors, truth), -1.0)
    # Computed once: recomputed in another fusion, a maximum need not equal its origin.
    overlaps = jax.lax.optimization_barrier(overlaps)

    best = jnp.maximum(overlaps.max(axis=1), 0)
    result = jnp.where(best < negative, BACKGROUND, IGNORED)
    is_positive = (best >= positive) & truth_valid.any()
    result = jnp.where(is_positive, overlaps.argmax(axis=1), result)

    truth_best = overlaps.max(axis=0, initial=-1.0)
    takes = (overlaps == truth_best[None]) & (truth_best >= min_positive)[None]
    taker = jnp.where(takes & truth_valid[None], jnp.arange(len(truth))[None], -1)
    taker = taker.max(axis=1)
    result = jnp.where(taker >= 0, taker, result)
    return Matches(jnp.where(priors_valid, result, IGNORED).astype(jnp.int32), best)
