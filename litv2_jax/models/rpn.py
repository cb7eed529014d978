"""Region proposal network (arXiv:1506.01497), with one layer before its outputs."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.detector import AnchorConfig, flatten_map, map_sizes
from litv2_jax.models.linear import Conv
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.dense_losses import AnchorScores
from litv2_jax.ops.detections import ScoredBoxes, find_proposals
from litv2_jax.ops.per_image import map_images

ANCHORS = AnchorConfig(strides=(4, 8, 16, 32, 64), scales=(8.0,))
# Anchors taken of each level, by whether the proposals are to train on.
_NUM_PER_LEVEL = {False: 1000, True: 2000}


class RpnHead(nnx.Module):
    """Whether each anchor has an object, and its box.

    With sizes [B, 2], of the image's part of each map.

    Shapes: [B, H, W, C] -> logits [B, H, W, A] and deltas [B, H, W, A * 4], float32.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(Conv, kernel_init=initializers.normal(0.01), rngs=rngs)
        # Logits are float32 in every model.
        exact = jnp.promote_types(dtype, jnp.float32)
        self.conv = conv(in_dim, dim, 3, dtype=dtype)
        count = ANCHORS.num_anchors
        self.classify = conv(dim, count, 1, dtype=exact)
        self.regress = conv(dim, 4 * count, 1, dtype=exact)

    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        x = jax.nn.relu(self.conv(zero_beyond(x, sizes)))
        return self.classify(x), self.regress(x)

    @jax.named_scope("heads")
    def score_anchors(
        self,
        levels: Sequence[jax.Array],
        sizes: jax.Array,
        level_sizes: Sequence[jax.Array | None] | None = None,
    ) -> AnchorScores:
        """Returns what it predicts for each anchor.

        Args:
            levels: [B, H, W, C], of the pyramid.
            sizes: Integers [B, 2], height and width of each image.
            level_sizes: Integers [B, 2] for each level, height and width of the image's
                part, which alone is seen; None lets it see all of the canvas.
        """
        level_sizes = level_sizes or [None for _ in levels]
        logits, deltas = zip(*map(self, levels, level_sizes), strict=True)
        canvas_sizes = map_sizes(levels)
        return AnchorScores(
            [flatten_map(x, 1)[..., 0] for x in logits],
            [flatten_map(x, 4) for x in deltas],
            ANCHORS.create(canvas_sizes),
            ANCHORS.find_inside(canvas_sizes, sizes),
        )


@jax.named_scope("post-processing")
def propose(
    scored: AnchorScores,
    sizes: jax.Array,
    *,
    is_training: bool = False,
    num_proposals: int = 1000,
    rule: str = "2.11",
) -> ScoredBoxes:
    """Returns the boxes [B, S, 4] to look into, by descending score.

    Args:
        scored: From `RpnHead.score_anchors`.
        sizes: As in `RpnHead.score_anchors`.
        is_training: Whether they are chosen among twice as many.
        num_proposals: S.
        rule: As in `MaskRcnn.detect`.
    """

    def propose_one(logits, deltas, is_inside, size, anchors) -> ScoredBoxes:
        scores = [
            jnp.where(inside, jax.nn.sigmoid(x), -1)
            for x, inside in zip(logits, is_inside, strict=True)
        ]
        return find_proposals(
            scores,
            deltas,
            anchors,
            size,
            num_per_level=_NUM_PER_LEVEL[is_training],
            size=num_proposals,
            rule=rule,
        )

    # Boxes are where the heads look: no gradient goes through them.
    logits, deltas = jax.lax.stop_gradient((scored.logits, scored.deltas))
    inputs = (logits, deltas, scored.is_inside, sizes)
    return map_images(propose_one, *inputs, shared=(scored.anchors,))
