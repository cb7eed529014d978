"""Heads of Mask R-CNN (arXiv:1703.06870) that look into boxes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.linear import Conv, Linear
from litv2_jax.models.outputs import reorder_outputs
from litv2_jax.ops.linear import add_bias, multiply

BOX_BINS, MASK_BINS = 7, 14  # Sides of the crops that the heads read.


class BoxHead(nnx.Module):
    """Class and box, for each class, of what a crop shows (`Shared2FCBBoxHead`).

    Shapes: crops [B, N, 7, 7, C] -> logits [B, N, K + 1], the last of which is
    background, and deltas [B, N, K, 4], both float32.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        num_classes: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(Linear, rngs=rngs)
        init = initializers.xavier
        size = in_dim * BOX_BINS**2
        exact = jnp.promote_types(dtype, jnp.float32)
        self.hidden = nnx.List(
            [
                linear(size, dim, kernel_init=init(size, dim, 1), dtype=dtype),
                linear(dim, dim, kernel_init=init(dim, dim, 1), dtype=dtype),
            ]
        )
        self.classify = linear(
            dim, num_classes + 1, kernel_init=initializers.normal(0.01), dtype=exact
        )
        self.regress = linear(
            dim, 4 * num_classes, kernel_init=initializers.normal(0.001), dtype=exact
        )

    def __call__(self, crops: jax.Array) -> tuple[jax.Array, jax.Array]:
        # In the order of PyTorch's channels, as the weights of the first layer are.
        x = rearrange(crops, "b n h w c -> b n (c h w)")
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        deltas = self.regress(x)
        return self.classify(x), deltas.reshape(*deltas.shape[:2], -1, 4)

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]; background stays last."""
        reorder_outputs(self.classify, [*order, len(order)])
        reorder_outputs(self.regress, [4 * k + i for k in order for i in range(4)])


class DoubleSize(nnx.Module):
    """Transposed 2x2 convolution of stride 2 with bias: each pixel becomes four.

    Shapes: [B, H, W, C] -> [B, 2 H, 2 W, D].
    """

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        # PyTorch's (in, out, h, w) in the axes that a convolution's kernel moves to.
        shape = (2, 2, out_features, in_features)
        init = initializers.kaiming(out_features, 2)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = rearrange(self.kernel[...], "p q d c -> c (p q d)")
        y: jax.Array = multiply(x.astype(self.dtype), kernel)
        y = rearrange(y, "b h w (p q d) -> b (h p) (w q) d", p=2, q=2)
        return add_bias(y, self.bias[...])


class MaskHead(nnx.Module):
    """Mask, for each class, of what a crop shows (`FCNMaskHead`).

    Shapes: crops [B, N, 14, 14, C] -> logits [B, N, 28, 28, K], float32.
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
        init = initializers.kaiming
        dims = [in_dim, *(dim for _ in range(num_convs))]
        self.convs = nnx.List(
            [
                Conv(dims[i], dim, 3, kernel_init=init(dim, 3), dtype=dtype, rngs=rngs)
                for i in range(num_convs)
            ]
        )
        self.upsample = DoubleSize(dims[-1], dim, dtype=dtype, rngs=rngs)
        self.classify = Conv(
            dim,
            num_classes,
            1,
            kernel_init=init(num_classes, 1),
            dtype=jnp.promote_types(dtype, jnp.float32),
            rngs=rngs,
        )

    def __call__(self, crops: jax.Array) -> jax.Array:
        x = crops.reshape(-1, *crops.shape[2:])
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        x = self.classify(jax.nn.relu(self.upsample(x)))
        return x.reshape(*crops.shape[:2], *x.shape[1:])

    def reorder_classes(self, order: Sequence[int]) -> None:
        """Makes class k the one that was class order[k]."""
        reorder_outputs(self.classify, order)
