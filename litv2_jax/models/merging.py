"""Deformable token merging (arXiv:2105.14217, section 3.3), between two stages."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.batch_norm import BatchNorm, FoldedNorm
from litv2_jax.models.patch_conv import PatchConv
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.deform_conv import deform_conv
from litv2_jax.ops.gelu import gelu
from litv2_jax.ops.linear import add_bias


class DeformableTokenMerging(nnx.Module):
    """Halves the map: deformable 2x2 convolution of stride 2, BatchNorm, GELU.

    The offsets come from a plain 2x2 convolution of stride 2, which starts at zero. Odd
    rows and columns at the end have no patch of their own.

    Shapes: [B, H, W, C] -> [B, H // 2, W // 2, D].
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.offset = PatchConv(
            dim,
            8,  # Down and right for each of the four taps.
            2,
            kernel_init=nnx.initializers.zeros,
            bias_init=nnx.initializers.zeros,
            # Positions need more digits than bfloat16 has: at 32 it steps by 1/4.
            dtype=jnp.promote_types(dtype, jnp.float32),
            rngs=rngs,
        )
        init = initializers.uniform(fan_in=4 * dim)
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, dim, out_dim)))
        self.bias = nnx.Param(init(rngs.params(), (out_dim,)))
        self.norm: BatchNorm | FoldedNorm = BatchNorm(out_dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """Merges each map, or the image's part of it, which becomes sizes // 2.

        Args:
            x: [B, H, W, C].
            sizes: Integers [B, 2], height and width of the image's part.

        Raises:
            ValueError: If there are sizes and BatchNorm takes statistics of the batch.
        """
        if sizes is not None and not self.norm.use_running_average:
            raise ValueError(
                "BatchNorm would take statistics of what is beyond the images, too: "
                "call the model without sizes to train it, or freeze its BatchNorm by "
                "nnx.view(model, use_running_average=True)."
            )
        x = zero_beyond(x, sizes)
        y = deform_conv(x, self.offset(x), self.kernel[...])
        return gelu(self.norm(add_bias(y, self.bias[...])))
