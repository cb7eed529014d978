"""Test-time augmentation of segmentation: several sizes, each also mirrored."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from litv2_jax.augment.normalize import normalize_inside
from litv2_jax.data.transforms.segmentation import name_view
from litv2_jax.models.image_sizes import MIN_SIDE, find_map_sizes
from litv2_jax.ops.canvas import mirror_inside
from litv2_jax.ops.views import View, find_best_classes
from litv2_jax.training.task import Batch


def classify_views(model: Any, batch: Batch, ratios: Sequence[float]) -> jax.Array:
    """Returns the class of each pixel by the mean of an image's views.

    Each view is computed as if its image were alone, whatever the canvas.

    Args:
        model: A Semantic FPN, ready for inference.
        batch: As in `tasks.segmentation`, with an image for each ratio.
        ratios: Factors on the scale of the images.

    Returns:
        int32 [B, H', W'], valid within `label_size`.
    """
    views = [view for ratio in ratios for view in _list_views(model, batch, ratio)]
    return find_best_classes(views, batch["label"].shape[1:])


def _list_views(model: Any, batch: Batch, ratio: float) -> Iterator[View]:
    sizes = batch[name_view("size", ratio)]
    images = normalize_inside(batch[name_view("image", ratio)], sizes)
    # The two steps of `SemanticFpn.segment`.
    steps = [
        (find_map_sizes(sizes)[0], jnp.maximum(sizes, MIN_SIDE)),
        (sizes, batch["label_size"]),
    ]
    yield View(model(images, sizes), steps, is_mirrored=False)
    mirrored = mirror_inside(images, sizes)
    yield View(model(mirrored, sizes), steps, is_mirrored=True)
