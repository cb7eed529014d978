"""HiLo attention (arXiv:2205.13213, section 3.2)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.initializers import linear_kernel
from litv2_jax.models.linear import Linear
from litv2_jax.ops.attention import attend, attend_in_windows
from litv2_jax.ops.linear import add_bias, multiply


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
            alpha: Share of the heads that are Lo-Fi; `int(num_heads * alpha)` are.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        pad = [(0, 0), (0, -height % self.window_size), (0, -width % self.window_size)]
        x = jnp.pad(x, [*pad, (0, 0)])
        layers, outputs = {}, []
        if self.high_heads:
            layers["high_qkv"] = self.high_qkv
        if self.low_heads:
            layers["low_q"] = self.low_q
        if self.low_heads and self.window_size == 1:
            layers["low_kv"] = self.low_kv
        projected = _project_together(x, layers)
        if self.high_heads:
            outputs.append(self._attend_high(projected["high_qkv"]))
        if self.low_heads:
            # Averaged before it is projected, of fewer positions.
            kv = projected.get("low_kv")
            kv = self.low_kv(_average(x, self.window_size)) if kv is None else kv
            outputs.append(self._attend_low(projected["low_q"], kv))
        return jnp.concatenate(outputs, axis=-1)[:, :height, :width]

    def _attend_high(self, qkv: jax.Array) -> jax.Array:
        """Attention inside each window: [B, H, W, 3 * Hi-Fi channels] -> a third."""
        x = attend_in_windows(
            qkv,
            num_heads=self.high_heads,
            window_size=self.window_size,
            scale=self.scale,
        )
        return self.high_out(x)

    def _attend_low(self, q: jax.Array, kv: jax.Array) -> jax.Array:
        """Attention to window averages: queries [B, H, W, Lo-Fi channels] -> the same.

        Keys and values are [B, H / s, W / s, 2 * Lo-Fi channels].
        """
        n, height = self.low_heads, q.shape[1]
        q = rearrange(q, "b h w (n d) -> b (h w) n d", n=n)
        k, v = rearrange(kv, "b h w (k n d) -> k b (h w) n d", k=2, n=n)
        x: jax.Array = attend(q, k, v, self.scale)
        return self.low_out(rearrange(x, "b (h w) n d -> b h w (n d)", h=height))


def _project_together(x: jax.Array, layers: dict[str, Linear]) -> dict[str, jax.Array]:
    """Applies layers that read the same input, as one matrix product."""
    dtype = next(iter(layers.values())).dtype
    kernels = [layer.kernel[...] for layer in layers.values()]
    y: jax.Array = multiply(x.astype(dtype), jnp.concatenate(kernels, axis=1))
    biases = [layer.bias[...] for layer in layers.values() if layer.bias is not None]
    if biases:
        y = add_bias(y, jnp.concatenate(biases))
    ends = np.cumsum([kernel.shape[1] for kernel in kernels[:-1]])
    return dict(zip(layers, jnp.split(y, ends, axis=-1), strict=True))


def _average(x: jax.Array, size: int) -> jax.Array:
    """Returns the averages of windows: [B, H, W, C] -> [B, H / size, W / size, C]."""
    return reduce(x, "b (r s) (c t) d -> b r c d", "mean", s=size, t=size)
