"""RetinaNet (arXiv:1708.02002) with LITv2, as published for COCO."""

import dataclasses
import functools
import math
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
    AnchorConfig,
    check_canvas,
    check_sizes,
    create_norms,
    find_factors,
    flatten_map,
    map_sizes,
)
from litv2_jax.models.fpn import Fpn, PyramidModel
from litv2_jax.models.linear import Conv
from litv2_jax.models.outputs import reorder_outputs
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.dense_losses import AnchorScores, compute_retinanet_losses
from litv2_jax.ops.detections import (
    Detections,
    check_rule,
    choose_detections,
    find_dense_candidates,
)
from litv2_jax.ops.per_image import map_images
from litv2_jax.ops.truth import Truth
from litv2_jax.settings import Range

ANCHORS = AnchorConfig(
    strides=(8, 16, 32, 64, 128), scales=tuple(4 * 2 ** (i / 3) for i in range(3))
)
# Share of objects that the classifier of a new model predicts anywhere.
_PRIOR = 0.01


class RetinaHead(nnx.Module):
    """Classes and boxes of each anchor, with the same layers for all levels.

    With sizes [B, 2], of the image's part of each map.

    Shapes: [B, H, W, C] -> logits [B, H, W, A * K] and deltas [B, H, W, A * 4], both
    float32.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        num_classes: int,
        *,
        num_convs: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(
            Conv, size=3, kernel_init=initializers.normal(0.01), rngs=rngs
        )

        def create_tower() -> nnx.List:
            dims = [in_dim, *(dim for _ in range(num_convs))]
            return nnx.List([conv(dims[i], dim, dtype=dtype) for i in range(num_convs)])

        self.class_convs, self.box_convs = create_tower(), create_tower()
        # Logits are float32 in every model.
        exact = jnp.promote_types(dtype, jnp.float32)
        count, last_dim = ANCHORS.num_anchors, dim if num_convs else in_dim
        bias = nnx.initializers.constant(-math.log((1 - _PRIOR) / _PRIOR))
        self.classify = conv(last_dim, count * num_classes, bias_init=bias, dtype=exact)
        self.regress = conv(last_dim, count * 4, dtype=exact)

    @jax.named_scope("heads")
    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        classes = boxes = zero_beyond(x, sizes)
        for class_conv, box_conv in zip(self.class_convs, self.box_convs, strict=True):
            classes = zero_beyond(jax.nn.relu(class_conv(classes)), sizes)
            boxes = zero_beyond(jax.nn.relu(box_conv(boxes)), sizes)
        return self.classify(classes), self.regress(boxes)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        count = len(order)
        every = [a * count + k for a in range(ANCHORS.num_anchors) for k in order]
        reorder_outputs(self.classify, every)


@dataclasses.dataclass(frozen=True)
class RetinaNetConfig:
    """Sizes of a RetinaNet.

    Attributes:
        backbone: Sizes of the backbone.
        num_classes: Number K of classes.
        fpn_dim: Channels of the feature pyramid.
        head_dim: Channels of the head.
        num_convs: Convolutions before each output of the head.
    """

    backbone: BackboneConfig
    num_classes: int = 80
    fpn_dim: Width = 256
    head_dim: Width = 256
    num_convs: Annotated[int, Range(0, 64)] = 4

    def __post_init__(self):
        check_sizes(
            num_classes=self.num_classes, fpn_dim=self.fpn_dim, head_dim=self.head_dim
        )
        check_sizes(least=0, num_convs=self.num_convs)


class RetinaNet(PyramidModel):
    """Backbone, feature pyramid of five levels, head: boxes of objects.

    Comes ready for inference; train with
    `nnx.view(model, deterministic=False, use_running_average=False)`.
    """

    size_multiple = MULTIPLE

    def __init__(
        self,
        config: RetinaNetConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dims = config.backbone.dims
        self.num_classes = config.num_classes
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        self.norms = nnx.List(create_norms(dims, dtype=dtype, rngs=rngs))
        self.fpn = Fpn(
            dims[1:],
            config.fpn_dim,
            num_extra=2,
            extra="convolved",
            kernel_init=initializers.xavier,
            dtype=dtype,
            rngs=rngs,
        )
        self.head = RetinaHead(
            config.fpn_dim,
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
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits [B, h, w, A * K] and deltas [B, h, w, A * 4] of each level.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            sizes: Integers [B, 2], height and width of each image, if the canvas is
                larger than these rounded up to 32, as which the image alone counts.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        maps = self.features(images, sizes, rngs=rngs)[1:]
        level_sizes = ANCHORS.find_level_sizes(sizes)
        levels = self.fpn(maps, level_sizes[: len(maps)])
        logits, deltas = zip(*map(self.head, levels, level_sizes), strict=True)
        return list(logits), list(deltas)

    def detect(
        self,
        images: jax.Array,
        sizes: jax.Array,
        original_sizes: jax.Array,
        *,
        rule: str = "2.11",
    ) -> Detections:
        """Returns the boxes found in each image.

        They are those of each image alone, padded with zeros until 32 divides its sides
        as the original pads it, in whatever canvas and batch it is.

        Args:
            images: [B, H, W, 3], normalised, each in the upper left corner; H and W are
                multiples of 32.
            sizes: Integers [B, 2], height and width of each image.
            original_sizes: [B, 2], height and width of the image before it was
                resized, in whose pixels boxes are returned.
            rule: Version of mmdetection whose rule chooses the boxes. The published
                numbers are those of `2.11`.

        Raises:
            ValueError: If the rule is unknown, or the images are not padded.
        """
        check_rule(rule)
        check_canvas(images)
        scored = self._score_anchors(self(images, sizes), sizes)
        factors = find_factors(sizes, original_sizes)

        def detect(logits, deltas, is_inside, size, factor, anchors) -> Detections:
            scores = [
                jnp.where(inside[:, None], jax.nn.sigmoid(x), 0)
                for x, inside in zip(logits, is_inside, strict=True)
            ]
            found = find_dense_candidates(scores, deltas, anchors, size, rule)
            return choose_detections(found, factor)

        outputs = (scored.logits, scored.deltas, scored.is_inside)
        return map_images(detect, *outputs, sizes, factors, shared=(scored.anchors,))

    def losses(
        self,
        images: jax.Array,
        sizes: jax.Array,
        truth: Truth,
        *,
        rngs: nnx.Rngs | None = None,
        loss_group_size: int = 0,
    ) -> dict[str, jax.Array]:
        """Returns `class_loss` and `box_loss`, float32 [levels], to be added up.

        Args:
            images: As in `detect`, but zero beyond each: all of the canvas is seen, as
                of the original's padded batches.
            sizes: As in `detect`.
            truth: Boxes and classes of B images.
            rngs: As in `__call__`.
            loss_group_size: Neighboring images whose losses are divided by what they
                have together; the published models had 2, 0 takes the whole batch.

        Raises:
            ValueError: If the images are not padded, or are no whole groups.
        """
        check_canvas(images)
        scored = self._score_anchors(self(images, rngs=rngs), sizes)
        return compute_retinanet_losses(scored, truth, loss_group_size)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        self.head.reorder_classes(order)

    def _score_anchors(
        self, outputs: tuple[list[jax.Array], list[jax.Array]], sizes: jax.Array
    ) -> AnchorScores:
        logits, deltas = outputs
        level_sizes = map_sizes(logits)
        return AnchorScores(
            [flatten_map(x, self.num_classes) for x in logits],
            [flatten_map(x, 4) for x in deltas],
            ANCHORS.create(level_sizes),
            ANCHORS.find_inside(level_sizes, sizes),
        )


# The models of the paper's table 2, with the stochastic depth of their recipes.
RETINANETS = {
    f"retinanet_{name}": RetinaNetConfig(x) for name, x in DETECTOR_BACKBONES.items()
}
