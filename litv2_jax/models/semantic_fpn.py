"""Semantic FPN (arXiv:1901.02446) with LITv2, as published for ADE20K."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.backbone import Backbone, BackboneConfig, Rate, Width
from litv2_jax.models.batch_norm import BatchNorm, FoldedNorm
from litv2_jax.models.fpn import Fpn, PyramidModel
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.linear import Conv
from litv2_jax.models.outputs import reorder_outputs
from litv2_jax.ops.resize import (
    resample_argmax,
    resample_bilinear,
    resize_bilinear,
)


@dataclasses.dataclass(frozen=True)
class SemanticFpnConfig:
    """Sizes of a Semantic FPN.

    Attributes:
        backbone: Sizes of the backbone.
        num_classes: Size K of the logits.
        fpn_dim: Channels of the feature pyramid.
        head_dim: Channels of the head.
        dropout_rate: Fraction of the head's channels that training drops.
    """

    backbone: BackboneConfig
    num_classes: int = 150
    fpn_dim: Width = 256
    head_dim: Width = 128
    dropout_rate: Rate = 0.1

    def __post_init__(self):
        for name in ("num_classes", "fpn_dim", "head_dim"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or more.")


class ConvNormRelu(nnx.Module):
    """3x3 convolution without bias, BatchNorm over all devices, ReLU.

    Shapes: [B, H, W, C] -> [B, H, W, D].
    """

    def __init__(self, dim: int, out_dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(
            dim,
            out_dim,
            3,
            use_bias=False,
            kernel_init=initializers.kaiming(out_dim, 3),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm: BatchNorm | FoldedNorm = BatchNorm(
            out_dim, statistics="batch", dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Upsample(nnx.Module):
    """Doubles height and width, bilinearly.

    Shapes: [B, H, W, C] -> [B, 2 H, 2 W, C].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))


class Branch(nnx.Module):
    """Brings one level of the pyramid to stride 4, about.

    Shapes: [B, h, w, C] -> [B, h 2^i, w 2^i, D] for level i.
    """

    def __init__(
        self, level: int, dim: int, out_dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        conv = functools.partial(ConvNormRelu, dtype=dtype, rngs=rngs)
        layers: list[nnx.Module] = [conv(dim, out_dim)]
        for i in range(level):
            layers += [conv(out_dim, out_dim)] if i else []
            layers += [Upsample()]
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


class SemanticFpnHead(nnx.Module):
    """Adds up the levels at stride 4 and classifies (mmsegmentation's `FPNHead`).

    Shapes: four maps [B, h, w, C], finest first -> [B, h, w, K] of the finest.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        num_classes: int,
        *,
        dropout_rate: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.branches = nnx.List(
            [Branch(i, in_dim, dim, dtype=dtype, rngs=rngs) for i in range(4)]
        )
        # Whole channels; its random numbers are given when it is called.
        self.dropout = nnx.Dropout(
            dropout_rate, broadcast_dims=(1, 2), deterministic=True
        )
        self.classify = Conv(
            dim,
            num_classes,
            1,
            kernel_init=initializers.normal(0.01),
            # Logits are float32 in every model.
            dtype=jnp.promote_types(dtype, jnp.float32),
            rngs=rngs,
        )

    def __call__(
        self, maps: Sequence[jax.Array], rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        height, width = maps[0].shape[1:3]
        x = self.branches[0](maps[0])
        for branch, level in zip(self.branches[1:], maps[1:], strict=True):
            x += resize_bilinear(branch(level), (height, width))
        if not self.dropout.deterministic:
            x = self.dropout(x, rngs=rngs)
        return self.classify(x)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        reorder_outputs(self.classify, order)


class SemanticFpn(PyramidModel):
    """Backbone with a norm on each map, feature pyramid, head: a class for each pixel.

    Comes ready for inference; train with
    `nnx.view(model, deterministic=False, use_running_average=False)`.
    """

    def __init__(
        self,
        config: SemanticFpnConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dims = config.backbone.dims
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        norms = [LayerNorm(dim, dtype=dtype, rngs=rngs) for dim in dims]
        self.norms = nnx.List(norms)
        self.fpn = Fpn(dims, config.fpn_dim, dtype=dtype, rngs=rngs)
        self.head = SemanticFpnHead(
            config.fpn_dim,
            config.head_dim,
            config.num_classes,
            dropout_rate=config.dropout_rate,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns logits [B, ceil(H / 4), ceil(W / 4), K], float32.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            rngs: Stream `dropout` chooses the paths and channels that training drops.
        """
        maps = self.fpn(self.features(images, rngs=rngs))
        return self.head(maps, rngs)

    def segment(
        self,
        images: jax.Array,
        sizes: jax.Array,
        new_sizes: jax.Array,
        canvas: tuple[int, int],
    ) -> jax.Array:
        """Returns logits at the original image sizes, in mmsegmentation's two steps.

        They are resized to the size of the model's input, then to the original one.

        Args:
            images: [B, H, W, 3], normalised, and zero below and right of each image.
            sizes: [B, 2], height and width of each image.
            new_sizes: [B, 2], height and width that each image had originally.
            canvas: Height and width of the result, which hold the largest one.

        Returns:
            [B, *canvas, K]; what lies beyond an image has no meaning.
        """
        return resample_bilinear(self._resize(images), sizes, new_sizes, canvas)

    def predict(
        self,
        images: jax.Array,
        sizes: jax.Array,
        new_sizes: jax.Array,
        canvas: tuple[int, int],
    ) -> jax.Array:
        """Returns the class of each pixel: where `segment` has its largest logits.

        Its memory does not grow with the canvas but for the result.

        Args:
            images: See `segment`.
            sizes: See `segment`.
            new_sizes: See `segment`.
            canvas: See `segment`.

        Returns:
            [B, *canvas] int32; what lies beyond an image is not valid.
        """
        return resample_argmax(self._resize(images), sizes, new_sizes, canvas)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        self.head.reorder_classes(order)

    def _resize(self, images: jax.Array) -> jax.Array:
        """Returns logits at the size of the images."""
        height, width = images.shape[1:3]
        return resize_bilinear(self(images), (height, width))
