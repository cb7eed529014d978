"""Chooses a fixed number of matched boxes to train on."""

import dataclasses

import jax
import jax.numpy as jnp

from litv2_jax.ops.matching import BACKGROUND


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Chosen boxes: positive ones, then background, then padding.

    Attributes:
        indices: int32 [S]; 0 where not valid.
        is_positive: bool [S].
        is_valid: bool [S].
    """

    indices: jax.Array
    is_positive: jax.Array
    is_valid: jax.Array


def sample_matches(
    truth: jax.Array, *, size: int, max_positive: int, key: jax.Array | None
) -> Samples:
    """Chooses up to `max_positive` positive boxes and fills up with background.

    Every choice is equally likely, as by mmdetection's `RandomSampler`. Map it over
    images by `map_images`, because it sorts.

    Args:
        truth: int32 [N] of `match_boxes`; ignored boxes are never chosen.
        size: S. Fewer are valid where there is too little background.
        max_positive: Of them.
        key: Random key; None takes evenly spaced ones in the order of the boxes.
    """
    is_positive, is_negative = truth >= 0, truth == BACKGROUND
    num_positive = jnp.minimum(is_positive.sum(), max_positive)
    num_negative = jnp.minimum(is_negative.sum(), size - num_positive)
    if key is None:
        positive = _choose_evenly(is_positive, num_positive, size)
        negative = _choose_evenly(is_negative, num_negative, size)
    else:
        keys = jax.random.split(key)
        positive = _choose_randomly(is_positive, keys[0], size)
        negative = _choose_randomly(is_negative, keys[1], size)
    slots = jnp.arange(size)
    is_first = slots < num_positive
    is_valid = slots < num_positive + num_negative
    negative = negative[jnp.maximum(slots - num_positive, 0)]
    indices = jnp.where(is_first, positive, negative)
    return Samples(jnp.where(is_valid, indices, 0), is_first, is_valid)


def _choose_randomly(candidates: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """Returns int32 [size], candidates bool [N] in random order, then anything."""
    draws = (jax.random.bits(key, candidates.shape, jnp.uint32) >> 1).astype(jnp.int32)
    count = min(size, candidates.shape[0])
    indices = jax.lax.top_k(jnp.where(candidates, draws, -1), count)[1]
    return jnp.pad(indices, (0, size - count))


def _choose_evenly(candidates: jax.Array, count: jax.Array, size: int) -> jax.Array:
    """Returns int32 [size], whose first `count` are evenly spaced candidates bool [N].

    They are those at rint(linspace(0, total - 1, count)), in integers because float32
    has too few digits for the number of anchors.
    """
    total, intervals = candidates.sum(), jnp.maximum(count - 1, 1)
    place, rest = jnp.divmod(jnp.arange(size) * (total - 1), intervals)
    is_up = (2 * rest > intervals) | ((2 * rest == intervals) & (place % 2 == 1))
    return jnp.searchsorted(jnp.cumsum(candidates), place + is_up + 1).astype(jnp.int32)
