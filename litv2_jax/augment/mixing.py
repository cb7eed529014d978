"""Mixup, CutMix and smoothed labels, as timm's Mixup in its mode `batch`.

One draw mixes a group of S neighboring images, image i with image S - 1 - i: in the
original, those of one GPU.
"""

import jax
import jax.numpy as jnp


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns targets [B, K]: 1 - `smoothing` for the label, the rest over all K.

    Args:
        labels: [B] int.
        num_classes: K.
        smoothing: Fraction of the target that does not depend on the label.
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
    group_size: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each group of a batch by Mixup (arXiv:1710.09412) or CutMix (1905.04899).

    The draws depend only on the key and the number of groups. A batch whose shards hold
    complete groups is mixed without communication.

    Args:
        images: [B, H, W, C] float.
        targets: [B, K] float.
        key: Chooses method, weight and box of each group.
        mixup: Parameter of the beta distribution of Mixup's weight; 0 turns Mixup off.
        cutmix: The same for CutMix.
        switch: Probability of CutMix where both are on.
        group_size: Images for each draw, which are mixed among themselves; 0 or more
            than B for the whole batch.

    Returns:
        Images and targets of the same shapes.

    Raises:
        ValueError: If the groups do not divide the batch.
    """
    if not mixup and not cutmix:
        return images, targets
    size = min(group_size, len(images)) or len(images)
    if len(images) % size:
        raise ValueError(
            f"A batch of {len(images)} images cannot be mixed in groups of {size}: "
            "choose a group_size that divides it."
        )

    def mix_group(images: jax.Array, targets: jax.Array, key: jax.Array):
        height, width = images.shape[1:3]
        weights = _draw_weights(
            key, (height, width), mixup=mixup, cutmix=cutmix, switch=switch
        )
        return blend(images, targets, weights)

    grouped_images, grouped_targets = (
        x.reshape(-1, size, *x.shape[1:]) for x in (images, targets)
    )
    keys = jax.random.split(key, len(grouped_images))
    mixed = jax.vmap(mix_group)(grouped_images, grouped_targets, keys)
    return mixed[0].reshape(images.shape), mixed[1].reshape(targets.shape)


def _draw_weights(
    key: jax.Array,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    switch: float,
) -> jax.Array:
    """Returns [H, W], the weight of each pixel of the image itself."""
    method, beta, vertical, horizontal = jax.random.split(key, 4)
    if mixup and cutmix:
        is_cutmix = jax.random.bernoulli(method, switch)
    else:
        is_cutmix = jnp.asarray(bool(cutmix))
    alpha = jnp.where(is_cutmix, cutmix, mixup)
    lam = jax.random.beta(beta, alpha, alpha)
    center = (
        jax.random.randint(vertical, (), 0, size[0]),
        jax.random.randint(horizontal, (), 0, size[1]),
    )
    return jnp.where(is_cutmix, cutmix_weights(lam, center, size), lam)


def cutmix_weights(
    lam: jax.Array | float, center: tuple, size: tuple[int, int]
) -> jax.Array:
    """Returns [H, W]: 0 inside a box of about (1 - lam) H W pixels, 1 outside.

    Args:
        lam: Fraction of the image to keep, before the box is clipped at the borders.
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
        weights: [H, W], the weight of each pixel of the image itself.

    Returns:
        Images, and targets blended by the mean of the weights.
    """
    share = weights.mean()
    weights = weights[None, :, :, None]
    images = images * weights + images[::-1] * (1 - weights)
    return images, targets * share + targets[::-1] * (1 - share)
