"""Mask R-CNN (arXiv:1703.06870) with LITv2, as published for COCO."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.backbone import Backbone, BackboneConfig, Width
from litv2_jax.models.detector import (
    DETECTOR_BACKBONES,
    MULTIPLE,
    check_canvas,
    check_sizes,
    create_norms,
    find_factors,
    round_up,
)
from litv2_jax.models.fpn import Fpn, PyramidModel
from litv2_jax.models.roi_heads import BOX_BINS, MASK_BINS, BoxHead, MaskHead
from litv2_jax.models.rpn import ANCHORS, RpnHead, propose
from litv2_jax.ops.dense_losses import compute_rpn_losses
from litv2_jax.ops.detections import (
    Detections,
    check_rule,
    choose_detections,
    find_roi_candidates,
)
from litv2_jax.ops.per_image import map_images
from litv2_jax.ops.roi_align import roi_align
from litv2_jax.ops.roi_losses import (
    RoiSamples,
    compute_box_losses,
    compute_mask_loss,
    find_mask_targets,
    sample_rois,
)
from litv2_jax.ops.truth import TrueMasks, Truth
from litv2_jax.settings import Range

# Crops are of the levels that are the backbone's, not of the coarsest.
_ROI_STRIDES = ANCHORS.strides[:-1]


@dataclasses.dataclass(frozen=True)
class MaskRcnnConfig:
    """Sizes of a Mask R-CNN.

    Attributes:
        backbone: Sizes of the backbone.
        num_classes: Number K of classes.
        fpn_dim: Channels of the feature pyramid.
        head_dim: Channels of the RPN and of the mask head.
        num_convs: Convolutions of the mask head.
        hidden_dim: Hidden channels of the box head.
    """

    backbone: BackboneConfig
    num_classes: int = 80
    fpn_dim: Width = 256
    head_dim: Width = 256
    num_convs: Annotated[int, Range(0, 64)] = 4
    hidden_dim: Width = 1024

    def __post_init__(self):
        names = ("num_classes", "fpn_dim", "head_dim", "hidden_dim")
        check_sizes(**{name: getattr(self, name) for name in names})
        check_sizes(least=0, num_convs=self.num_convs)


class MaskRcnn(PyramidModel):
    """Backbone, feature pyramid of five levels, RPN, heads for boxes and masks.

    Comes ready for inference; train with
    `nnx.view(model, deterministic=False, use_running_average=False)`.
    """

    size_multiple = MULTIPLE

    def __init__(
        self,
        config: MaskRcnnConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dims, fpn_dim = config.backbone.dims, config.fpn_dim
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        self.norms = nnx.List(create_norms(dims, dtype=dtype, rngs=rngs))
        self.fpn = Fpn(
            dims,
            fpn_dim,
            num_extra=1,
            extra="subsampled",
            kernel_init=initializers.xavier,
            dtype=dtype,
            rngs=rngs,
        )
        self.rpn = RpnHead(fpn_dim, config.head_dim, dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(
            fpn_dim, config.hidden_dim, config.num_classes, dtype=dtype, rngs=rngs
        )
        self.mask_head = MaskHead(
            fpn_dim,
            config.head_dim,
            config.num_classes,
            num_convs=config.num_convs,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> list[jax.Array]:
        """Returns the five levels of the pyramid, which all heads read.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            sizes: As for `RetinaNet`.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        maps = self.features(images, sizes, rngs=rngs)
        return self.fpn(maps, ANCHORS.find_level_sizes(sizes)[: len(maps)])

    @jax.named_scope("heads")
    def predict_boxes(
        self, levels: Sequence[jax.Array], boxes: jax.Array, sizes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B, N, K + 1], background last, and deltas [B, N, K, 4].

        Args:
            levels: From `__call__`.
            boxes: [B, N, 4] to look into.
            sizes: Integers [B, 2], height and width of each image.
        """
        return self.box_head(_crop(levels, boxes, sizes, BOX_BINS))

    @jax.named_scope("heads")
    def predict_masks(
        self, levels: Sequence[jax.Array], boxes: jax.Array, sizes: jax.Array
    ) -> jax.Array:
        """Returns logits [B, N, 28, 28, K].

        Args:
            levels: From `__call__`.
            boxes: [B, N, 4] to look into.
            sizes: Integers [B, 2], height and width of each image.
        """
        return self.mask_head(_crop(levels, boxes, sizes, MASK_BINS))

    def detect(
        self,
        images: jax.Array,
        sizes: jax.Array,
        original_sizes: jax.Array,
        *,
        num_proposals: int = 1000,
        rule: str = "2.11",
    ) -> Detections:
        """Returns the boxes found in each image, as `RetinaNet`, with their masks.

        Args:
            images: [B, H, W, 3], normalised, each in the upper left corner; H and W are
                multiples of 32.
            sizes: Integers [B, 2], height and width of each image.
            original_sizes: [B, 2], height and width of the image before it was
                resized, in whose pixels boxes are returned.
            num_proposals: Boxes of each image that are looked into.
            rule: Version of mmdetection whose rule chooses the proposals. The published
                numbers are those of `2.11`.

        Raises:
            ValueError: If the rule is unknown, or the images are not padded.
        """
        check_rule(rule)
        check_canvas(images)
        levels = self(images, sizes)
        level_sizes = ANCHORS.find_level_sizes(sizes)
        outputs = self.rpn.score_anchors(levels, sizes, level_sizes)
        proposals = propose(outputs, sizes, num_proposals=num_proposals, rule=rule)
        logits, deltas = self.predict_boxes(levels, proposals.boxes, sizes)
        factors = find_factors(sizes, original_sizes)

        def choose(logits, deltas, proposals, size, factor) -> Detections:
            found = find_roi_candidates(logits, deltas, proposals, size)
            return choose_detections(found, factor)

        found = map_images(choose, logits, deltas, proposals, sizes, factors)
        boxes = found.boxes * factors[:, None]
        logits = self.predict_masks(levels, boxes, sizes)
        masks = jax.nn.sigmoid(_take_class(logits, found.labels))
        is_valid = jnp.arange(masks.shape[1])[None] < found.count[:, None]
        masks = jnp.where(is_valid[..., None, None], masks, 0)
        return dataclasses.replace(found, masks=masks)

    def losses(
        self,
        images: jax.Array,
        sizes: jax.Array,
        truth: Truth,
        masks: TrueMasks,
        *,
        rngs: nnx.Rngs | None = None,
        loss_group_size: int = 0,
        num_proposals: int = 1000,
        num_samples: int = 512,
        rule: str = "2.11",
    ) -> dict[str, jax.Array]:
        """Returns what is to be added up, in float32.

        `rpn_class_loss` and `rpn_box_loss` are [levels]; `class_loss`, `box_loss` and
        `mask_loss` are scalars.

        Args:
            images: As in `detect`, but zero beyond each; all of the canvas is seen.
            sizes: As in `detect`.
            truth: Boxes and classes of B images.
            masks: Their masks.
            rngs: Stream `dropout` chooses the paths that training drops, `sampling` the
                boxes to train on. Without it these are evenly spaced.
            loss_group_size: Neighboring images whose losses are divided by what they
                have together; the published models had 2, 0 takes the whole batch.
            num_proposals: As in `detect`.
            num_samples: Of them, how many the heads train on; a quarter may have an
                object.
            rule: As in `detect`.

        Raises:
            ValueError: If the rule is unknown, the images are not padded, or are no
                whole groups.
        """
        check_rule(rule)
        check_canvas(images)
        keys = _create_keys(rngs, len(images))
        levels = self(images, rngs=rngs)
        outputs = self.rpn.score_anchors(levels, sizes)
        proposals = propose(
            outputs, sizes, is_training=True, num_proposals=num_proposals, rule=rule
        )
        num_masks = num_samples // 4
        samples = sample_rois(
            proposals, truth, keys[1], num_samples=num_samples, max_positive=num_masks
        )
        logits, deltas = self.predict_boxes(levels, samples.boxes, sizes)
        # Positive samples come first.
        positive: RoiSamples = jax.tree.map(lambda x: x[:, :num_masks], samples)
        mask_logits = self.predict_masks(levels, positive.boxes, sizes)
        targets = find_mask_targets(positive, masks, sizes)
        return {
            **compute_rpn_losses(outputs, truth, keys[0], loss_group_size),
            **compute_box_losses(logits, deltas, samples, truth, loss_group_size),
            "mask_loss": compute_mask_loss(
                mask_logits, targets, positive, truth, loss_group_size
            ),
        }

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        self.box_head.reorder_classes(order)
        self.mask_head.reorder_classes(order)


def _crop(
    levels: Sequence[jax.Array], boxes: jax.Array, sizes: jax.Array, bins: int
) -> jax.Array:
    """Returns what boxes [B, N, 4] show: [B, N, bins, bins, C]."""
    strides = jnp.array(_ROI_STRIDES)[:, None]

    def crop(maps, boxes, size):
        own = round_up(size)[None] // strides  # Its part of a larger canvas.
        return roi_align(maps, boxes, bins, strides=_ROI_STRIDES, sizes=own)

    return jax.vmap(crop)(list(levels[: len(_ROI_STRIDES)]), boxes, sizes)


def _take_class(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """[B, N, 28, 28, K] -> [B, N, 28, 28], those of the labels [B, N]."""
    return jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)[..., 0]


def _create_keys(rngs: nnx.Rngs | None, count: int) -> list[jax.Array | None]:
    """Returns key data [B, ...] for the RPN and for the heads, or nothing twice."""
    if rngs is None:
        return [None, None]
    keys = [jax.random.split(rngs.sampling(), count) for _ in range(2)]
    return [jax.random.key_data(key) for key in keys]


# The models of the paper's table 2, with the stochastic depth of their recipes.
MASK_RCNNS = {
    f"mask_rcnn_{name}": MaskRcnnConfig(x) for name, x in DETECTOR_BACKBONES.items()
}
