"""Intermediate results of a backbone, for visualization."""

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from litv2_jax.models.backbone import Backbone
from litv2_jax.models.hilo import HiLo
from litv2_jax.ops.padding import pad_map


def read_block_input(
    backbone: Backbone, images: jax.Array, stage: int, block: int
) -> jax.Array:
    """Returns what the HiLo attention of a block reads: [B, h, w, C].

    Args:
        backbone: Of a model.
        images: [B, H, W, 3], normalized.
        stage: Number of the stage, from 1.
        block: Number of the block in it, from 1.

    Raises:
        ValueError: If there is no such block, or it has no attention.
    """
    stages = backbone.stages
    if not 1 <= stage <= len(stages) or not 1 <= block <= len(stages[stage - 1].blocks):
        counts = [len(each.blocks) for each in stages]
        raise ValueError(
            f"There is no block {block} in stage {stage}: the stages have {counts} "
            "blocks, counted from 1."
        )
    target = stages[stage - 1].blocks[block - 1]
    if not target.has_attention:
        raise ValueError(
            f"Stage {stage} has no attention; of the published models, 3 and 4 have."
        )
    x = read_stage_input(backbone, images, stage)
    for each in stages[stage - 1].blocks[: block - 1]:
        x = each(x)
    return target.norm1(x)


def read_stage_input(backbone: Backbone, images: jax.Array, stage: int) -> jax.Array:
    """Returns what the blocks of a stage, counted from 1, read: [B, h, w, C]."""
    x = backbone.patch_embedding(images.astype(backbone.dtype))
    for i in range(stage - 1):
        x = backbone.merges[i](backbone.stages[i](x))
    return x


def measure_frequencies(
    backbone: Backbone,
    images: jax.Array,
    stage: int,
    block: int,
    weights: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Returns the spectra of Hi-Fi and Lo-Fi, as `measure_spectrum`, by their names.

    Args:
        backbone: As in `read_block_input`.
        images: As in `read_block_input`.
        stage: As in `read_block_input`.
        block: As in `read_block_input`.
        weights: As in `measure_spectrum`.

    Raises:
        ValueError: If there is no such block, or it has no attention.
    """
    x = read_block_input(backbone, images, stage, block)
    layer: HiLo = backbone.stages[stage - 1].blocks[block - 1].attention
    parts = split_frequencies(layer, x)
    return {name: measure_spectrum(part, weights) for name, part in parts.items()}


def split_frequencies(layer: HiLo, x: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs of the heads, `Hi-Fi` and `Lo-Fi`: [B, h, w, channels] each.

    Args:
        layer: Of a block.
        x: [B, h, w, C], what it reads.
    """
    y = layer(x)
    low = layer.low_out.out_features if layer.low_heads else 0
    outputs = {
        "Hi-Fi": y[..., : y.shape[-1] - low],
        "Lo-Fi": y[..., y.shape[-1] - low :],
    }
    return {name: part for name, part in outputs.items() if part.shape[-1]}


def measure_spectrum(x: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns Fourier magnitudes, averaged over the images: [B, h, w, C] -> [h, w, C].

    The lowest frequency is in the middle, as in figure 6 of the paper.

    Args:
        x: [B, h, w, C].
        weights: [B], of the images in the average; alike by default.
    """
    magnitude = jnp.abs(jnp.fft.fft2(x.astype(jnp.float32), axes=(1, 2)))
    return jnp.average(jnp.fft.fftshift(magnitude, axes=(1, 2)), 0, weights)


def read_low_attention(
    layer: HiLo, x: jax.Array, position: tuple[int, int]
) -> jax.Array:
    """Returns how much a position attends to each window average, by head.

    Args:
        layer: Of a block, with Lo-Fi heads.
        x: [1, h, w, C], what it reads.
        position: Row and column in the map.

    Returns:
        [heads, ceil(h / s), ceil(w / s)] for windows of s x s, which adds up to 1.

    Raises:
        ValueError: If there are no Lo-Fi heads, or no such position.
    """
    height, width = x.shape[1:3]
    row, column = position
    if not layer.low_heads:
        raise ValueError("This layer has no Lo-Fi heads: all attention is in windows.")
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"There is no position {row}, {column} in a map of {height}x{width}."
        )
    n, s = layer.low_heads, layer.window_size
    padded = pad_map(x, (0, -height % s), (0, -width % s))
    pooled = reduce(padded, "1 (h s) (w t) c -> h w c", "mean", s=s, t=s)
    q = rearrange(layer.low_q(x[0, row, column]), "(n d) -> n d", n=n)
    k, _ = rearrange(layer.low_kv(pooled), "h w (k n d) -> k n h w d", k=2, n=n)
    logits = layer.scale * jnp.einsum("nd,nhwd->nhw", q, k)
    return jax.nn.softmax(logits, axis=(1, 2))


def find_samples(
    backbone: Backbone, images: jax.Array, merge: int
) -> tuple[jax.Array, jax.Array]:
    """Returns where a token merging reads its map, in pixels of the image.

    Args:
        backbone: Of a model.
        images: [B, H, W, 3], normalized.
        merge: Number of the merging, from 1, which is before stage 2.

    Returns:
        Two arrays [B, h, w, 4, 2] of (y, x): the four taps of each new token as in a
        plain convolution, and where their offsets move them.

    Raises:
        ValueError: If there is no such merging.
    """
    count = len(backbone.merges)
    if not 1 <= merge <= count:
        raise ValueError(f"There is no token merging {merge}; there are 1 to {count}.")
    x = backbone.stages[merge - 1](read_stage_input(backbone, images, merge))
    offsets: nnx.Module = backbone.merges[merge - 1].offset
    moves = rearrange(offsets(x), "b h w (t yx) -> b h w t yx", yx=2)  # pyright: ignore
    height, width = moves.shape[1:3]
    corners = jnp.stack(jnp.mgrid[:height, :width], axis=-1)[:, :, None] * 2
    taps = jnp.stack(jnp.mgrid[:2, :2], axis=-1).reshape(1, 1, 4, 2)
    plain = jnp.broadcast_to((corners + taps)[None], moves.shape).astype(jnp.float32)
    stride = 2 ** (merge + 1)
    # From positions of the map to the middle of their pixels.
    return tuple((each + 0.5) * stride - 0.5 for each in (plain, plain + moves))
