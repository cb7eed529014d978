"""Flax's linear layer and convolution, with gradients as exact as their parameters."""

import jax
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.ops.conv import convolve
from litv2_jax.ops.linear import add_bias, multiply


class Linear(nnx.Linear):
    """Product with a matrix, and bias.

    Shapes: [..., C] -> [..., D].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = multiply(x.astype(self.dtype), self.kernel[...])
        return y if self.bias is None else add_bias(y, self.bias[...])


class Conv(nnx.Conv):
    """Convolution with zeros outside, and bias.

    Shapes: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the layer.

        Args:
            in_features: Channels C.
            out_features: Channels D.
            size: Side of the kernel, odd.
            stride: Positions between kernels.
            use_bias: Whether there is a bias.
            kernel_init: Of the kernel [size, size, C, D].
            bias_init: Of the bias [D].
            dtype: Type of the computation.
            rngs: Stream `params` initializes the layer.
        """
        super().__init__(
            in_features,
            out_features,
            (size, size),
            (stride, stride),
            padding=size // 2,
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x.astype(self.dtype), self.kernel[...], self.stride)
        return y if self.bias is None else add_bias(y, self.bias[...])
