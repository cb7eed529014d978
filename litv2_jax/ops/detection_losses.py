"""Losses of detectors, in float32, and what they are divided by.

All are elementwise: a model masks them, adds them up for each image, and divides by
counts with `average_groups`.
"""

import jax
import jax.numpy as jnp


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the cross-entropy of sigmoids with targets 0 and 1, both of any shape."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(jnp.where(targets > 0, -logits, logits))


def focal_loss(
    logits: jax.Array, labels: jax.Array, *, alpha: float = 0.25, gamma: float = 2
) -> jax.Array:
    """Returns the sigmoid focal loss of each class.

    Source: "Focal Loss for Dense Object Detection" (arXiv:1708.02002).

    Args:
        logits: [..., K].
        labels: Integers [...]; what is not within 0 and K - 1 is no class.
        alpha: Weight of the right class; the others have 1 - alpha.
        gamma: Exponent by which good predictions count less.

    Returns:
        float32 [..., K].
    """
    logits = logits.astype(jnp.float32)
    is_own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    # How far each probability is from its target.
    errors = jax.nn.sigmoid(jnp.where(is_own, -logits, logits))
    weights = jnp.where(is_own, alpha, 1 - alpha)
    return weights * errors**gamma * binary_cross_entropy(logits, is_own)


def smooth_l1_loss(
    values: jax.Array, targets: jax.Array, *, beta: float = 0.0
) -> jax.Array:
    """Returns absolute differences, rounded off to a parabola within `beta`.

    The published models are trained with 0, which is L1.
    """
    difference = jnp.abs(values.astype(jnp.float32) - targets.astype(jnp.float32))
    if not beta:
        return difference
    square = 0.5 * difference**2 / beta
    return jnp.where(difference < beta, square, difference - 0.5 * beta)


def mask_loss(logits: jax.Array, targets: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of each mask of its own class.

    Args:
        logits: [P, H, W, K].
        targets: [P, H, W] of 0 and 1.
        labels: Integers [P] within 0 and K - 1.

    Returns:
        float32 [P].
    """
    own = jnp.take_along_axis(logits, labels[:, None, None, None], axis=-1)[..., 0]
    return binary_cross_entropy(own, targets).mean(axis=(1, 2))


def average_groups(sums: jax.Array, counts: jax.Array, group_size: int) -> jax.Array:
    """Returns the mean over groups of images of their sums over their counts.

    mmdetection divides by the count of a GPU's two images, and averages over GPUs.

    Args:
        sums: [B, ...] of each image.
        counts: [B], what was added up; a group without anything counts as one.
        group_size: Images of a group, neighbors in the batch; 0 makes one of all.

    Returns:
        float32 [...].

    Raises:
        ValueError: If the batch has no whole number of groups.
    """
    batch_size = sums.shape[0]
    group_size = group_size or batch_size
    if batch_size % group_size:
        raise ValueError(
            f"A batch of {batch_size} images has no whole groups of {group_size}; use "
            "0, which makes one group of all, or a size that divides the batch."
        )
    sums = sums.astype(jnp.float32).reshape(-1, group_size, *sums.shape[1:]).sum(axis=1)
    counts = counts.astype(jnp.float32).reshape(-1, group_size).sum(axis=1)
    counts = jnp.maximum(counts, 1).reshape(-1, *(1 for _ in sums.shape[1:]))
    return jnp.mean(sums / counts, axis=0)
