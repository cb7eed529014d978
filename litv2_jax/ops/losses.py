"""Losses that optax does not have."""

import jax
import jax.numpy as jnp


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy over all pixels, ignored ones counted as zero.

    As mmsegmentation 0.13 has it (`cross_entropy` with `avg_non_ignore` off).

    Args:
        logits: [B, H, W, K].
        labels: [B, H, W] integers; what is not within 0 and K - 1 is ignored.
    """
    # The index of a label would do, but its gradient is a scatter. This mask is all
    # zeros where the label is ignored, and XLA never keeps it.
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1).mean()
