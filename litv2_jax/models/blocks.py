"""The parts that a stage is made of: patch embedding, feed-forward layer, block."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.hilo import HiLo
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.linear import Linear
from litv2_jax.models.patch_conv import PatchConv
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.depthwise import depthwise_conv3x3_gelu
from litv2_jax.ops.padding import pad_map

# Channels of the images that the published models take: red, green, blue.
RGB = 3


class PatchEmbedding(nnx.Module):
    """Turns each 4x4 patch into a token; pads right and bottom with zeros to fill it.

    Shapes: [B, H, W, in_chans] -> [B, ceil(H / 4), ceil(W / 4), C].
    """

    def __init__(
        self, dim: int, in_chans: int = RGB, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        init = initializers.uniform(fan_in=4 * 4 * in_chans)
        self.project = PatchConv(
            in_chans, dim, 4, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(dim, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        padded = pad_map(images, (0, -height % 4), (0, -width % 4))
        return self.norm(self.project(padded))


class DepthwiseConvGelu(nnx.Module):
    """Depthwise 3x3 convolution with bias, then GELU.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            initializers.depthwise_kernel(rngs.params(), (3, 3, 1, dim))
        )
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        return depthwise_conv3x3_gelu(x, self.kernel[...], self.bias[...])


class ConvMlp(nnx.Module):
    """Feed-forward layer whose depthwise convolution lets neighbours mix.

    With sizes [B, 2], those within the image's part of each map.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(self, dim: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = functools.partial(
            Linear,
            dtype=dtype,
            kernel_init=initializers.linear_kernel,
            rngs=rngs,
        )
        self.expand = linear(dim, hidden)
        self.mix = DepthwiseConvGelu(hidden, rngs=rngs)
        self.project = linear(hidden, dim)

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        return self.project(self.mix(zero_beyond(self.expand(x), sizes)))


class DropPath(nnx.Module):
    """Drops a residual branch for whole images and scales up the rest.

    Stochastic depth (arXiv:1603.09382) as in timm.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"A drop path rate of {rate} must be within [0, 1).")
        self.rate = rate
        self.deterministic = True

    def set_view(self, deterministic: bool | None = None):
        """Lets `nnx.view` choose.

        Args:
            deterministic: Whether to keep every branch, as in inference.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError(
                "Stochastic depth needs random numbers: call the model as "
                "model(images, rngs=nnx.Rngs(key)), or create it with drop_path_rate=0."
            )
        keep = 1 - self.rate
        mask = jax.random.bernoulli(rngs.dropout(), keep, (x.shape[0], 1, 1, 1))
        return jnp.where(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))


class Block(nnx.Module):
    """Residual feed-forward layer, with residual HiLo attention before it if asked for.

    With sizes [B, 2], height and width of the image's part of each map, that part is
    computed as if it were alone, and what is beyond has no meaning.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int,
        alpha: float,
        mlp_ratio: int,
        drop_path_rate: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the block; a `window_size` of 0 leaves the attention out."""
        if window_size:
            self.norm1 = LayerNorm(dim, dtype=dtype, rngs=rngs)
            self.attention = HiLo(
                dim, num_heads, window_size, alpha, dtype=dtype, rngs=rngs
            )
        self.norm2 = LayerNorm(dim, dtype=dtype, rngs=rngs)
        self.mlp = ConvMlp(dim, mlp_ratio * dim, dtype=dtype, rngs=rngs)
        self.drop_path = DropPath(drop_path_rate)
        self.has_attention = bool(window_size)

    def __call__(
        self,
        x: jax.Array,
        rngs: nnx.Rngs | None = None,
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        if self.has_attention:
            x = x + self.drop_path(self.attention(self.norm1(x), sizes), rngs)
        return x + self.drop_path(self.mlp(self.norm2(x), sizes), rngs)
