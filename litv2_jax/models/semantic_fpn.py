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
from litv2_jax.models.image_sizes import MIN_SIDE, find_map_sizes
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.linear import Conv
from litv2_jax.models.outputs import reorder_outputs
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.resize import resample_argmax, resample_bilinear, resize_bilinear


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

    With sizes [B, 2], of the image's part of each map.

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

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(zero_beyond(x, sizes))))


class Upsample(nnx.Module):
    """Doubles height and width, bilinearly.

    With sizes [B, 2], of the image's part of each map, at whose edge it ends.

    Shapes: [B, H, W, C] -> [B, 2 H, 2 W, C].
    """

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        doubled = (2 * x.shape[1], 2 * x.shape[2])
        return resize_bilinear(x, doubled, sizes, _scale(sizes, 2))


class Branch(nnx.Module):
    """Brings one level of the pyramid to stride 4, about.

    With sizes [B, 2], of the image's part of each map.

    Shapes: [B, h, w, C] -> [B, h 2^i, w 2^i, D] for level i.
    """

    def __init__(
        self, level: int, dim: int, out_dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        conv = functools.partial(ConvNormRelu, dtype=dtype, rngs=rngs)
        layers: list[ConvNormRelu | Upsample] = [conv(dim, out_dim)]
        for i in range(level):
            layers += [conv(out_dim, out_dim)] if i else []
            layers += [Upsample()]
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        for layer in self.layers:
            x = layer(x, sizes)
            if isinstance(layer, Upsample):
                sizes = _scale(sizes, 2)
        return x


def _scale(sizes: jax.Array | None, factor: int) -> jax.Array | None:
    return None if sizes is None else factor * sizes


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
        self,
        maps: Sequence[jax.Array],
        rngs: nnx.Rngs | None = None,
        sizes: Sequence[jax.Array | None] | None = None,
    ) -> jax.Array:
        """Returns the logits.

        Args:
            maps: From `Fpn`.
            rngs: Stream `dropout` chooses the channels that training drops.
            sizes: As for `Fpn`.
        """
        sizes = sizes or [None for _ in maps]
        height, width = maps[0].shape[1:3]
        x = self.branches[0](maps[0], sizes[0])
        for i in range(1, len(maps)):
            y = self.branches[i](maps[i], sizes[i])
            part = _scale(sizes[i], 2**i)
            x += resize_bilinear(y, (height, width), part, sizes[0])
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

    def __call__(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Returns logits [B, ceil(H / 4), ceil(W / 4), K], float32.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            sizes: Integers [B, 2], height and width of each image, if the canvas is
                larger. Its upper left ceil(h / 4) x ceil(w / 4) logits are then what
                the image alone would give; what is beyond has no meaning.
            rngs: Stream `dropout` chooses the paths and channels that training drops.
        """
        maps, map_sizes = self.features(images, sizes, rngs=rngs), find_map_sizes(sizes)
        return self.head(self.fpn(maps, map_sizes), rngs, map_sizes)

    def segment(
        self,
        images: jax.Array,
        sizes: jax.Array,
        new_sizes: jax.Array,
        canvas: tuple[int, int],
    ) -> jax.Array:
        """Returns logits at the original image sizes, in mmsegmentation's two steps.

        They are resized to the size of the model's input, then to the original one.
        Whatever the canvas of the images and whatever else is in the batch, they are
        what the model gives for each image alone.

        Args:
            images: [B, H, W, 3], normalised, each in the upper left corner.
            sizes: Integers [B, 2], height and width of each image.
            new_sizes: [B, 2], height and width that each image had originally.
            canvas: Height and width of the result, which hold the largest one.

        Returns:
            [B, *canvas, K]; what lies beyond an image has no meaning.
        """
        logits = self._resize(images, sizes)
        return resample_bilinear(logits, sizes, new_sizes, canvas)

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
        logits = self._resize(images, sizes)
        return resample_argmax(logits, sizes, new_sizes, canvas)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        self.head.reorder_classes(order)

    def _resize(self, images: jax.Array, sizes: jax.Array) -> jax.Array:
        """Returns logits at the size of the images."""
        height, width = images.shape[1:3]
        part, new_part = find_map_sizes(sizes)[0], jnp.maximum(sizes, MIN_SIDE)
        return resize_bilinear(self(images, sizes), (height, width), part, new_part)
