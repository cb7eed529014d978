"""Losses of the heads that look into proposals: the box head's and the mask head's.

What follows is mmdetection's; see `detection_losses.average_groups` for what the sums
are divided by.
"""

import dataclasses

import jax
import jax.numpy as jnp

from litv2_jax.ops.boxes import encode_boxes
from litv2_jax.ops.detection_losses import average_groups, mask_loss, smooth_l1_loss
from litv2_jax.ops.detections import ROI_STDS, ScoredBoxes
from litv2_jax.ops.mask_bits import unpack_masks
from litv2_jax.ops.masks import create_mask_targets
from litv2_jax.ops.matching import IGNORED, match_boxes
from litv2_jax.ops.per_image import map_images
from litv2_jax.ops.sampling import sample_matches
from litv2_jax.ops.truth import TrueMasks, Truth, clamp_truth

# Masks that are unpacked at once, which bounds the memory: 1.6 MB each at 640x640.
_MASKS_AT_ONCE = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoiSamples:
    """Boxes that the heads train on: positive ones, then background, then padding.

    Attributes:
        boxes: float32 [B, S, 4].
        truth: int32 [B, S], the true box of each, 0 where there is none.
        is_positive: bool [B, S].
        is_valid: bool [B, S].
        indices: int32 [B, S], where they were among the true boxes, padding included,
            and the proposals after them.
    """

    boxes: jax.Array
    truth: jax.Array
    is_positive: jax.Array
    is_valid: jax.Array
    indices: jax.Array


@jax.named_scope("losses")
def sample_rois(
    proposals: ScoredBoxes,
    truth: Truth,
    keys: jax.Array | None,
    *,
    num_samples: int,
    max_positive: int,
) -> RoiSamples:
    """Chooses among proposals and the true boxes themselves.

    Args:
        proposals: Of B images.
        truth: Of B images.
        keys: Key data [B, ...] of each image; None takes evenly spaced boxes.
        num_samples: S.
        max_positive: Of them.
    """

    def sample(proposals: ScoredBoxes, truth: Truth, key: jax.Array | None = None):
        matched = match_boxes(
            proposals.boxes,
            truth.boxes,
            priors_valid=proposals.is_valid,
            truth_valid=truth.is_valid,
            positive=0.5,
            negative=0.5,
            min_positive=0.5,
        ).truth
        # True boxes join after the matching, in which each would be its own best and
        # leave no proposal below the overlap of 0.5 to it.
        own = jnp.arange(len(truth.boxes), dtype=jnp.int32)
        own = jnp.where(truth.is_valid, own, IGNORED)
        boxes = jnp.concatenate([truth.boxes, proposals.boxes])
        matched = jnp.concatenate([own, matched])
        key = None if key is None else jax.random.wrap_key_data(key)
        samples = sample_matches(
            matched, size=num_samples, max_positive=max_positive, key=key
        )
        index = samples.indices
        return RoiSamples(
            boxes[index],
            clamp_truth(matched[index]),
            samples.is_positive,
            samples.is_valid,
            index,
        )

    return map_images(sample, proposals, truth, *(() if keys is None else (keys,)))


@jax.named_scope("losses")
def compute_box_losses(
    logits: jax.Array,
    deltas: jax.Array,
    samples: RoiSamples,
    truth: Truth,
    group_size: int,
) -> dict[str, jax.Array]:
    """Returns `class_loss`, a cross-entropy, and `box_loss`, L1 of the deltas.

    Args:
        logits: [B, S, K + 1], the last of which is background.
        deltas: [B, S, K, 4].
        samples: Of B images.
        truth: Of B images.
        group_size: Images that a GPU had; 0 takes all of the batch together.
    """
    background = logits.shape[-1] - 1

    def sum_losses(logits, deltas, samples: RoiSamples, truth: Truth):
        own = truth.labels[samples.truth]
        labels = jnp.where(samples.is_positive, own, background)
        chances = jax.nn.log_softmax(logits.astype(jnp.float32))
        losses = -jnp.take_along_axis(chances, labels[:, None], axis=1)[:, 0]
        class_loss = jnp.where(samples.is_valid, losses, 0).sum()
        deltas = jnp.take_along_axis(deltas, own[:, None, None], axis=1)[:, 0]
        boxes = truth.boxes[samples.truth]
        targets = encode_boxes(boxes, samples.boxes, stds=ROI_STDS)
        losses = smooth_l1_loss(deltas, targets).sum(axis=-1)
        return class_loss, jnp.where(samples.is_positive, losses, 0).sum()

    class_sums, box_sums = jax.vmap(sum_losses)(logits, deltas, samples, truth)
    counts = samples.is_valid.sum(axis=1)
    return {
        "class_loss": average_groups(class_sums, counts, group_size),
        "box_loss": average_groups(box_sums, counts, group_size),
    }


@jax.named_scope("losses")
def find_mask_targets(
    samples: RoiSamples, masks: TrueMasks, sizes: jax.Array
) -> jax.Array:
    """Returns what the mask head is to predict: float32 [B, P, 28, 28] of 0 and 1.

    Args:
        samples: Of B images, P of each.
        masks: Of B images.
        sizes: Integers [B, 2], height and width of the resized images.
    """

    def find(samples: RoiSamples, masks: TrueMasks, size: jax.Array) -> jax.Array:
        def find_one(box: jax.Array, place: jax.Array) -> jax.Array:
            return create_mask_targets(
                unpack_masks(masks.bits, place[None], masks.file_size),
                box[None],
                image_size=size,
                row_map=masks.row_maps,
                column_map=masks.column_maps,
            )[0]

        pairs = (samples.boxes, masks.places[samples.truth])
        return jax.lax.map(
            lambda pair: find_one(*pair), pairs, batch_size=_MASKS_AT_ONCE
        )

    return jax.vmap(find)(samples, masks, sizes)


@jax.named_scope("losses")
def compute_mask_loss(
    logits: jax.Array,
    targets: jax.Array,
    samples: RoiSamples,
    truth: Truth,
    group_size: int,
) -> jax.Array:
    """Returns the mean cross-entropy of the masks of positive samples.

    Args:
        logits: [B, P, 28, 28, K].
        targets: [B, P, 28, 28] of 0 and 1.
        samples: Of B images, P of each.
        truth: Of B images.
        group_size: Images that a GPU had; 0 takes all of the batch together.
    """

    def sum_losses(logits, targets, samples: RoiSamples, truth: Truth) -> jax.Array:
        losses = mask_loss(logits, targets, truth.labels[samples.truth])
        return jnp.where(samples.is_positive, losses, 0).sum()

    sums = jax.vmap(sum_losses)(logits, targets, samples, truth)
    return average_groups(sums, samples.is_positive.sum(axis=1), group_size)
