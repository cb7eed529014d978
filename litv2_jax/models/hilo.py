"""HiLo attention (arXiv:2205.13213, section 3.2)."""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.initializers import linear_kernel
from litv2_jax.models.linear import Linear
from litv2_jax.ops.attention import attend, attend_in_windows
from litv2_jax.ops.canvas import pack_inside, zero_beyond
from litv2_jax.ops.padding import pad_map


class HiLo(nnx.Module):
    """Self-attention whose heads are split by spatial frequency.

    Hi-Fi heads attend inside each window and see detail; Lo-Fi heads attend from every
    position to the average of each window and see layout. Output channels are Hi-Fi,
    then Lo-Fi. A map that the windows do not divide is padded right and bottom with
    zeros, which take part unmasked as in the original's dense backbones, and cropped.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 2,
        alpha: float = 0.5,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        """Creates the layer; a branch without heads has no parameters.

        Args:
            dim: Channels C.
            num_heads: Heads of both branches together.
            window_size: Side of the windows in positions; 1 is plain multi-head
                attention whatever `alpha` is.
            alpha: Fraction of the heads that are Lo-Fi; `int(num_heads * alpha)` are.
            qkv_bias: Whether the query, key and value projections have a bias.
            qk_scale: Factor of the attention logits; None is `head_dim ** -0.5`.
            rngs: Stream `params` initialises the layer.
            dtype: Type of the computation; parameters and softmax stay float32.

        Raises:
            ValueError: If `num_heads` does not divide `dim`, `alpha` is not within
                [0, 1], or `window_size` is below 1.
        """
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is not a share of the heads: use 0 to 1.")
        if window_size < 1:
            raise ValueError(f"window_size={window_size} must be 1 or more positions.")
        self.window_size = window_size
        # A window of one position holds no detail, so that every head is Lo-Fi.
        self.low_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        self.high_heads = num_heads - self.low_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5 if qk_scale is None else qk_scale

        low, high = self.low_heads * head_dim, self.high_heads * head_dim
        linear = functools.partial(
            Linear,
            dtype=dtype,
            kernel_init=linear_kernel,
            rngs=rngs,
        )
        if high:
            self.high_qkv = linear(dim, 3 * high, use_bias=qkv_bias)
            self.high_out = linear(high, high)
        if low:
            self.low_q = linear(dim, low, use_bias=qkv_bias)
            self.low_kv = linear(dim, 2 * low, use_bias=qkv_bias)
            self.low_out = linear(low, low)

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """Attends within each map, or within the image's part of it.

        Args:
            x: [B, H, W, C].
            sizes: Integers [B, 2], height and width of the image's part, where maps are
                larger; what is beyond has no meaning in the result.
        """
        height, width = x.shape[1:3]
        s = self.window_size
        x = zero_beyond(x, sizes)
        x = pad_map(x, (0, -height % s), (0, -width % s))
        outputs = []
        if self.high_heads:
            outputs.append(self._attend_high(x))
        if self.low_heads:
            outputs.append(self._attend_low(x, sizes))
        return jnp.concatenate(outputs, axis=-1)[:, :height, :width]

    def _attend_high(self, x: jax.Array) -> jax.Array:
        """Attention inside each window: [B, H, W, C] -> [B, H, W, Hi-Fi channels]."""
        x = attend_in_windows(
            self.high_qkv(x),
            num_heads=self.high_heads,
            window_size=self.window_size,
            scale=self.scale,
        )
        return self.high_out(x)

    def _attend_low(self, x: jax.Array, sizes: jax.Array | None) -> jax.Array:
        """Attention to window averages: [B, H, W, C] -> [B, H, W, Lo-Fi channels]."""
        n, s = self.low_heads, self.window_size
        q = rearrange(self.low_q(x), "b h w (n d) -> b (h w) n d", n=n)
        pooled = reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=s, t=s)
        num_keys = None
        if sizes is not None:
            windows = -(-sizes // s)
            pooled, num_keys = pack_inside(pooled, windows), windows.prod(axis=1)
        k, v = rearrange(
            self.low_kv(pooled), "b h w (k n d) -> k b (h w) n d", k=2, n=n
        )
        y = attend(q, k, v, self.scale, num_keys)
        return self.low_out(rearrange(y, "b (h w) n d -> b h w (n d)", h=x.shape[1]))
