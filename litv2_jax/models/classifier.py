"""LITv2 for image classification (arXiv:2205.13213, table 1)."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.backbone import Backbone, BackboneConfig
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.linear import Linear
from litv2_jax.models.outputs import reorder_outputs


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a classifier.

    Attributes:
        backbone: Sizes of the backbone.
        num_classes: Size K of the logits; 0 makes a model without a head, which returns
            features.
    """

    backbone: BackboneConfig
    num_classes: int = 1000

    def __post_init__(self):
        if self.num_classes < 0:
            raise ValueError(
                f"num_classes={self.num_classes} must be 0, for a model that returns "
                "features, or more."
            )


class Classifier(nnx.Module):
    """Backbone, norm, mean over the map, linear head, if there are classes.

    Comes ready for inference; train with
    `nnx.view(model, deterministic=False, use_running_average=False)`.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dim = config.backbone.dims[-1]
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        # From here on in float32 at least: these layers cost next to nothing.
        exact = jnp.promote_types(dtype, jnp.float32)
        self.norm = LayerNorm(dim, dtype=exact, rngs=rngs)
        linear = functools.partial(
            Linear, dtype=exact, kernel_init=initializers.linear_kernel, rngs=rngs
        )
        count = config.num_classes
        self.head: Linear | None = linear(dim, count) if count else None

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns logits [B, K], or features [B, C] if there are no classes, float32.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        return self.forward_head(self.forward_features(images, rngs=rngs))

    def forward_features(
        self, images: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Returns the last map after the norm, [B, h, w, C], as timm calls it.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        return self.norm(self.backbone(images, rngs)[-1])

    def forward_head(self, x: jax.Array, *, pre_logits: bool = False) -> jax.Array:
        """Returns logits [B, K], or the mean over the map [B, C] that they are made of.

        Args:
            x: [B, h, w, C], from `forward_features`.
            pre_logits: Whether to return the mean, as a model without a head always
                does.
        """
        x = jnp.mean(x, axis=(1, 2))
        return x if pre_logits or self.head is None else self.head(x)

    def features(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> list[jax.Array]:
        """Returns the outputs of the four stages, at strides 4, 8, 16 and 32.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            sizes: Integers [B, 2], height and width of each image, if the canvas is
                larger: see `Backbone`.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        return self.backbone(images, rngs, sizes)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        if self.head is not None:
            reorder_outputs(self.head, order)
