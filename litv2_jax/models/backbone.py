"""The LITv2 backbone (arXiv:2205.13213, section 3) and its published sizes."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.blocks import Block, PatchEmbedding
from litv2_jax.models.image_sizes import (
    NUM_STAGES,
    check_image_sizes,
    check_images,
    find_map_sizes,
)
from litv2_jax.models.merging import DeformableTokenMerging
from litv2_jax.ops.canvas import zero_beyond
from litv2_jax.settings import REMAT, Range

# Of channels or heads, in a recipe.
Width = Annotated[int, Range(1, 4096)]
# Probability of dropping something.
Rate = Annotated[float, Range(0, below=1)]


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a backbone; tuples have one entry per stage.

    Attributes:
        embed_dim: Channels of the first stage; each further stage doubles them.
        depths: Number of blocks.
        num_heads: Attention heads.
        window_sizes: Side of the HiLo windows in positions; 0 means no attention, 1
            plain multi-head attention.
        alpha: Share of the heads that are Lo-Fi.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0.
        mlp_ratio: Hidden channels of the feed-forward layers over their input's.
        in_chans: Channels of the images, as timm calls them.
    """

    embed_dim: Width = 96
    depths: tuple[Annotated[int, Range(1, 200)], ...] = (2, 2, 6, 2)
    num_heads: tuple[Width, ...] = (3, 6, 12, 24)
    window_sizes: tuple[Annotated[int, Range(0, 64)], ...] = (0, 0, 2, 1)
    alpha: Annotated[float, Range(0, 1)] = 0.9
    drop_path_rate: Rate = 0.2
    mlp_ratio: Annotated[int, Range(1, 64)] = 4
    in_chans: Width = 3

    def __post_init__(self):
        for name in ("depths", "num_heads", "window_sizes"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != NUM_STAGES:
                raise ValueError(f"{name}={values} must have one entry for each stage.")
        if not isinstance(self.in_chans, int) or self.in_chans < 1:
            raise ValueError(
                f"in_chans={self.in_chans!r} must be the number of channels of the "
                "images, a whole number of 1 or more."
            )
        if min(self.depths) < 1:
            raise ValueError(f"depths={self.depths}: a stage has at least one block.")
        for heads, dim in zip(self.num_heads, self.dims, strict=True):
            if heads < 1 or dim % heads:
                raise ValueError(
                    f"num_heads={self.num_heads} must divide the channels of the "
                    f"stages, {self.dims}."
                )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(NUM_STAGES))

    @property
    def drop_path_rates(self) -> tuple[tuple[float, ...], ...]:
        """Stochastic depth of each block, by stage."""
        rates = np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist()
        ends = np.cumsum(self.depths).tolist()
        return tuple(
            tuple(rates[end - depth : end])
            for end, depth in zip(ends, self.depths, strict=True)
        )


class Stage(nnx.Module):
    """Blocks of one width.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self, config: BackboneConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.blocks = nnx.List(
            [
                Block(
                    config.dims[index],
                    config.num_heads[index],
                    window_size=config.window_sizes[index],
                    alpha=config.alpha,
                    mlp_ratio=config.mlp_ratio,
                    drop_path_rate=rate,
                    dtype=dtype,
                    rngs=rngs,
                )
                for rate in config.drop_path_rates[index]
            ]
        )
        self.remat = "none"

    def set_view(self, remat: str | None = None):
        """Lets `nnx.view` choose.

        Args:
            remat: Activations to rematerialise in training: `none`, or those inside
                `blocks`, of which only the inputs are kept.
        """
        if remat not in (None, *REMAT):
            raise ValueError(f"remat={remat!r} is unknown; use {' or '.join(REMAT)}.")
        self.remat = remat or self.remat

    def __call__(
        self,
        x: jax.Array,
        rngs: nnx.Rngs | None = None,
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        for block in self.blocks:
            # One key per block, so that random draws do not depend on `remat`.
            key = None if rngs is None else rngs.dropout()
            if self.remat == "blocks":
                x = jax.checkpoint(_run_block)(*nnx.split(block), x, key, sizes)
            else:
                x = block(x, _as_stream(key), sizes)
        return x


def _run_block(
    graphdef,
    state,
    x: jax.Array,
    key: jax.Array | None,
    sizes: jax.Array | None,
) -> jax.Array:
    """Calls a block, as a pure function such as `jax.checkpoint` requires."""
    return nnx.merge(graphdef, state)(x, _as_stream(key), sizes)


def _as_stream(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(dropout=key)


class Backbone(nnx.Module):
    """Patch embedding and four stages with deformable token merging in between.

    Returns the maps as they leave the stages, before the merging and without a norm:
    segmentation and detection each put their own norms on them.

    Shapes: [B, H, W, 3] -> four maps [B, h, w, C], [B, h // 2, w // 2, 2 C] and so on,
    with h = ceil(H / 4) and w = ceil(W / 4).
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.dtype = dtype
        self.patch_embedding = PatchEmbedding(
            config.embed_dim, config.in_chans, dtype=dtype, rngs=rngs
        )
        self.stages = nnx.List(
            [Stage(config, i, dtype=dtype, rngs=rngs) for i in range(NUM_STAGES)]
        )
        self.merges = nnx.List(
            [
                DeformableTokenMerging(dim, 2 * dim, dtype=dtype, rngs=rngs)
                for dim in config.dims[:-1]
            ]
        )
        self.images_at_once = 0

    def set_view(self, images_at_once: int | None = None):
        """Lets `nnx.view` choose.

        Args:
            images_at_once: How many images of a larger batch all but the last stage
                take at a time in inference, which on a CPU stay in its caches; 0 for
                the whole batch.
        """
        if images_at_once is not None:
            self.images_at_once = images_at_once

    def __call__(
        self,
        images: jax.Array,
        rngs: nnx.Rngs | None = None,
        sizes: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Returns the maps, of the whole canvas or of the image in each.

        Args:
            images: [B, H, W, 3], normalised; [B, H, W, in_chans] in general.
            rngs: Stream `dropout` chooses the paths that training drops.
            sizes: Integers [B, 2], height and width of each image, which is in the
                upper left corner. Its part of each map, `find_map_sizes(sizes)`, is
                what the image alone would give; what is beyond has no meaning.

        Raises:
            ValueError: If there are no such images or sizes, or BatchNorm is to take
                statistics of images with sizes.
        """
        check_images(images, self.config.in_chans)
        if sizes is not None:
            sizes = check_image_sizes(sizes, images.shape)
        map_sizes = find_map_sizes(sizes)
        images = zero_beyond(images.astype(self.dtype), sizes)
        if self.images_at_once and self._treats_images_alike(rngs, sizes):
            maps = _map_few(self._run_first_stages, images, self.images_at_once)
        else:
            maps = self._run_first_stages(images, rngs, map_sizes)
        x = self.merges[-1](maps[-1], map_sizes[-2])
        return [*maps, self.stages[-1](x, rngs, map_sizes[-1])]

    def _treats_images_alike(
        self, rngs: nnx.Rngs | None, sizes: jax.Array | None
    ) -> bool:
        """Returns whether an image's maps depend on that image alone, as in inference.

        Nothing is drawn, and BatchNorm takes no statistics.
        """
        is_inference = rngs is None and self.merges[0].norm.use_running_average
        return is_inference and sizes is None

    def _run_first_stages(
        self,
        images: jax.Array,
        rngs: nnx.Rngs | None = None,
        map_sizes: Sequence[jax.Array | None] = (None,) * NUM_STAGES,
    ) -> list[jax.Array]:
        """Returns the maps of all stages but the last."""
        x = self.patch_embedding(images)
        maps = [self.stages[0](x, rngs, map_sizes[0])]
        for i in range(1, NUM_STAGES - 1):
            x = self.merges[i - 1](maps[-1], map_sizes[i - 1])
            maps.append(self.stages[i](x, rngs, map_sizes[i]))
        return maps


def _map_few(
    function: Callable[[jax.Array], list[jax.Array]], images: jax.Array, most: int
) -> list[jax.Array]:
    """Applies a function to equal parts of a batch, of `most` images or fewer."""
    batch = images.shape[0]
    if batch <= most:
        return function(images)
    count = max(n for n in range(1, most + 1) if batch % n == 0)
    parts = images.reshape(batch // count, count, *images.shape[1:])
    return [x.reshape(batch, *x.shape[2:]) for x in jax.lax.map(function, parts)]


def find_images_at_once() -> int:
    """Returns the `images_at_once` of this machine: one for each core of a CPU.

    LITv2-S then takes 0.95 of the time on one core and 0.97 on two, and a quarter of
    the memory for its maps (docs/benchmarks.md).
    """
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 0


_S = BackboneConfig()
_M = BackboneConfig(depths=(2, 2, 18, 2), drop_path_rate=0.3)
_B = BackboneConfig(
    embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.5
)

# The models of the paper's tables 1 and 9, with the stochastic depth of their recipes.
VARIANTS = {
    "litv2_s": _S,
    "litv2_m": _M,
    "litv2_b": _B,
    # The weights of litv2_b fine-tuned at 384 pixels: the same layers.
    "litv2_b_384": _B,
    **{
        f"litv2_s_alpha{alpha}": dataclasses.replace(_S, alpha=alpha)
        for alpha in (0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0)
    },
}
