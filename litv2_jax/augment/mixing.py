"""Mixup, CutMix and smoothed labels, as timm's Mixup in its mode `batch`.

One draw mixes the whole batch: image i with image B - 1 - i.
"""

import jax
import jax.numpy as jnp


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns targets [B, K]: 1 - `smoothing` for the label, the rest over all K.

    Args:
        labels: [B] int.
        num_classes: K.
        smoothing: Share of the target that does not depend on the label.
    """
    one_hot = jax.nn.one_hot(labels, num_classes)
    return one_hot * (1 - smoothing) + smoothing / num_classes


def mix_batch(
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    *,
    mixup: float,
    cutmix: float,
    switch: float,
) -> tuple[jax.Array, jax.Array]:
    """Mixes a batch by Mixup (arXiv:1710.09412) or by CutMix (arXiv:1905.04899).

    Args:
        images: [B, H, W, C] float.
        targets: [B, K] float.
        key: Chooses the method, the share and the box.
        mixup: Parameter of the beta distribution of Mixup's share; 0 turns Mixup off.
        cutmix: The same for CutMix.
        switch: Probability of CutMix where both are on.

    Returns:
        Images and targets of the same shapes.
    """
    if not mixup and not cutmix:
        return images, targets
    size = (images.shape[1], images.shape[2])
    which, share, vertical, horizontal = jax.random.split(key, 4)
    if mixup and cutmix:
        is_cutmix = jax.random.bernoulli(which, switch)
    else:
        is_cutmix = jnp.asarray(bool(cutmix))
    alpha = jnp.where(is_cutmix, cutmix, mixup)
    lam = jax.random.beta(share, alpha, alpha)
    center = (
        jax.random.randint(vertical, (), 0, size[0]),
        jax.random.randint(horizontal, (), 0, size[1]),
    )
    weights = jnp.where(is_cutmix, cutmix_weights(lam, center, size), lam)
    return blend(images, targets, weights)


def cutmix_weights(
    lam: jax.Array | float, center: tuple, size: tuple[int, int]
) -> jax.Array:
    """Returns [H, W]: 0 inside a box of about (1 - lam) H W pixels, 1 outside.

    Args:
        lam: Share of the image to keep, before the box is cut off at the borders.
        center: Row and column of the middle of the box.
        size: H and W.
    """
    # Box limits as in timm 1.x; its older versions made odd boxes a pixel smaller.
    inside = []
    for middle, length in zip(center, size, strict=True):
        cut = (length * jnp.sqrt(1 - lam)).astype(jnp.int32)
        positions = jnp.arange(length)
        inside.append(
            (positions >= middle - cut // 2) & (positions < middle + (cut + 1) // 2)
        )
    rows, cols = inside
    return 1.0 - (rows[:, None] & cols[None]).astype(jnp.float32)


def blend(
    images: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Blends a batch with itself in reverse order.

    Args:
        images: [B, H, W, C].
        targets: [B, K].
        weights: [H, W], the share of each pixel that stays.

    Returns:
        Images, and targets blended by the mean of the weights.
    """
    share = weights.mean()
    weights = weights[None, :, :, None]
    images = images * weights + images[::-1] * (1 - weights)
    return images, targets * share + targets[::-1] * (1 - share)
