"""Feature pyramid network (arXiv:1612.03144) over the four maps of a backbone."""

import functools
from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.linear import Conv
from litv2_jax.ops.resize import resize_nearest


class Fpn(nnx.Module):
    """Brings maps to one width, and adds what each level sees to the finer one below.

    As in mmsegmentation 0.13, which initialises it like any convolution there.

    Shapes: maps [B, h, w, C] of any sizes, finest first -> the same with D channels.
    """

    def __init__(
        self, in_dims: Sequence[int], dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        """Creates the layers.

        Args:
            in_dims: Channels C of each map.
            dim: Channels D of the results.
            dtype: Type of the computation.
            rngs: Stream `params` initialises the weights.
        """
        conv = functools.partial(Conv, dtype=dtype, rngs=rngs)
        init = functools.partial(initializers.kaiming, dim)
        self.laterals = nnx.List(
            [conv(in_dim, dim, 1, kernel_init=init(1)) for in_dim in in_dims]
        )
        self.outputs = nnx.List(
            [conv(dim, dim, 3, kernel_init=init(3)) for _ in in_dims]
        )

    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in reversed(range(1, len(levels))):
            height, width = levels[i - 1].shape[1:3]
            levels[i - 1] += resize_nearest(levels[i], (height, width))
        return [conv(x) for conv, x in zip(self.outputs, levels, strict=True)]
