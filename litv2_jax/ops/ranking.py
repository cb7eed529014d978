"""Where the right class stands among all."""

import jax
import jax.numpy as jnp


def rank_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns how many classes come before the label, as `jax.lax.top_k` orders them.

    Of equal logits the first one comes first. With logits that are not numbers the
    label comes last.

    Unlike `top_k`, which XLA does not partition, it needs no exchange among devices.

    Args:
        logits: [B, K].
        labels: [B] integers from 0 to K - 1.

    Returns:
        [B] int32 from 0, the label being the best, to K.
    """
    labels = labels[:, None]
    own = jnp.take_along_axis(logits, labels, axis=1)
    classes = jnp.arange(logits.shape[1])[None]
    is_behind = (logits < own) | ((logits == own) & (classes >= labels))
    return jnp.sum(~is_behind, axis=1, dtype=jnp.int32)


def choose_labels(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns one label of each image, and whether it has any: int32 and bool [B].

    Of several, it is the one with the largest logit, as ReaL (arXiv:2006.07159) counts
    hits.

    Args:
        logits: [B, K].
        labels: [B] integers from 0 to K - 1; or [B, K], not 0 for each class that an
            image has.
    """
    if labels.ndim == 1:
        return labels, jnp.ones(labels.shape, bool)
    has = labels != 0
    best = jnp.where(has, logits, -jnp.inf).argmax(-1)
    return best.astype(labels.dtype), has.any(-1)
