"""Feature pyramid network (arXiv:1612.03144) over the maps of a backbone."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models import initializers
from litv2_jax.models.backbone import Backbone
from litv2_jax.models.image_sizes import check_image_sizes
from litv2_jax.models.linear import Conv
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.ops.resize import resize_nearest

# What a coarser level than the backbone's is made of.
EXTRA = ("convolved", "subsampled")

# Of features in, features out and the side of a kernel.
KernelInit = Callable[[int, int, int], nnx.Initializer]


def _kaiming(in_features: int, out_features: int, size: int) -> nnx.Initializer:
    del in_features
    return initializers.kaiming(out_features, size)


class PyramidModel(nnx.Module):
    """What models with a pyramid share: a backbone with a norm for each map.

    Attributes:
        backbone: A `Backbone`.
        norms: Of its maps; identities where the original has none.
        size_multiple: Images alone count with zeros up to sides that it divides, as the
            original pads them.
    """

    size_multiple = 1

    backbone: Backbone
    norms: nnx.List

    @jax.named_scope("backbone")
    def features(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> list[jax.Array]:
        """Returns the normalized outputs of the stages, at strides 4, 8, 16 and 32.

        Args:
            images: [B, H, W, 3], normalised by ImageNet's mean and standard deviation.
            sizes: Integers [B, 2], height and width of each image, if the canvas is
                larger: see `Backbone`.
            rngs: Stream `dropout` chooses the paths that training drops.
        """
        if sizes is not None:
            sizes = check_image_sizes(sizes, images.shape)
            images = zero_beyond(images, sizes)
            sizes = -(-sizes // self.size_multiple) * self.size_multiple
        maps = self.backbone(images, rngs, sizes)
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class Fpn(nnx.Module):
    """Brings maps to one width, and adds what each level sees to the finer one below.

    As `FPN` of mmsegmentation 0.13, which initialises it like any convolution there,
    and of mmdetection 2.11, which adds levels coarser than those of the backbone.

    Shapes: maps [B, h, w, C] of any sizes, finest first -> the same with D channels,
    then the extra levels, each [B, ceil(h / 2), ceil(w / 2), D] of the one before.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        dim: int,
        *,
        num_extra: int = 0,
        extra: str = "convolved",
        kernel_init: KernelInit = _kaiming,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the layers.

        Args:
            in_dims: Channels C of each map.
            dim: Channels D of the results.
            num_extra: Number of coarser levels.
            extra: How they are made: `convolved` from the last map as it comes in, with
                stride 2, each from the one before; or `subsampled` from the last level.
            kernel_init: Of all kernels.
            dtype: Type of the computation.
            rngs: Stream `params` initialises the weights.

        Raises:
            ValueError: If `extra` is something else.
        """
        if extra not in EXTRA:
            raise ValueError(f"extra={extra!r} is unknown; use {' or '.join(EXTRA)}.")
        self.num_extra = num_extra
        self.extra = extra

        def conv(in_dim: int, size: int, stride: int = 1) -> Conv:
            init = kernel_init(in_dim, dim, size)
            layer = functools.partial(Conv, dtype=dtype, rngs=rngs)
            return layer(in_dim, dim, size, stride=stride, kernel_init=init)

        self.laterals = nnx.List([conv(in_dim, 1) for in_dim in in_dims])
        outputs = [conv(dim, 3) for _ in in_dims]
        if extra == "convolved":
            sources = [in_dims[-1], *(dim for _ in range(num_extra))]
            outputs += [conv(sources[i], 3, stride=2) for i in range(num_extra)]
        # The extra ones come last, as in the original's list.
        self.outputs = nnx.List(outputs)

    @jax.named_scope("pyramid")
    def __call__(
        self,
        maps: Sequence[jax.Array],
        sizes: Sequence[jax.Array | None] | None = None,
    ) -> list[jax.Array]:
        """Returns the levels.

        Args:
            maps: [B, h, w, C], finest first.
            sizes: Integers [B, 2] for each map, height and width of the image's part,
                where the canvas is larger; beyond it, levels have no meaning.
        """
        sizes = sizes or [None for _ in maps]
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        count = len(levels)
        for i in reversed(range(1, count)):
            height, width = levels[i - 1].shape[1:3]
            levels[i - 1] += resize_nearest(
                levels[i], (height, width), sizes[i], sizes[i - 1]
            )
        levels = [
            conv(zero_beyond(x, size))
            for conv, x, size in zip(self.outputs[:count], levels, sizes, strict=True)
        ]
        if self.extra == "convolved":
            x, size = maps[-1], sizes[-1]
            for conv in self.outputs[count:]:
                x = conv(zero_beyond(x, size))
                size = None if size is None else -(-size // 2)
                levels.append(x)
        else:
            for _ in range(self.num_extra):
                x = levels[-1]
                # Indexing would gather, if the batch is a symbol, for export.
                levels.append(jax.lax.slice(x, (0,) * 4, x.shape, (1, 2, 2, 1)))
        return levels
