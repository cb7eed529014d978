"""FLOPs of the backbone, and of the pyramid that all dense models have.

As in the literature, one multiplication with its addition counts as one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from litv2_jax.models.backbone import BackboneConfig
from litv2_jax.models.fpn import Fpn
from litv2_jax.models.image_sizes import NUM_STAGES


class Flops(NamedTuple):
    """FLOPs of one image.

    Attributes:
        published: As the original counts. In a classifier, the convolution of the
            offsets with 12 outputs instead of 8, the last norm at four times its size,
            no sampling. In dense models, no deformable convolution at all, norms
            twice, and biases and activations that mmcv knows.
        corrected: The same without these errors: matrix products, convolutions, norms
            and sampling.
    """

    published: int
    corrected: int


def find_map_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns height and width of the map of each stage."""
    height, width = (-(-side // 4) for side in image_size)
    return [(height // 2**i, width // 2**i) for i in range(NUM_STAGES)]


def count_backbone(config: BackboneConfig, sizes: Sequence[tuple[int, int]]) -> Flops:
    """Counts patch embedding, blocks and merging."""
    tokens = sizes[0][0] * sizes[0][1]
    # Patch embedding, its norm.
    common = tokens * config.embed_dim * (config.in_chans * 4 * 4 + 1)
    published = corrected = 0
    for i, (height, width) in enumerate(sizes):
        if i:
            tokens, dim = height * width, config.dims[i - 1]
            common += tokens * (4 * dim * 2 * dim + 2 * 2 * dim)  # Convolution, norm.
            published += tokens * 12 * (4 * dim + 1)  # Offsets.
            corrected += tokens * 8 * (4 * dim + 1)
            corrected += tokens * 4 * 4 * dim  # Sampling: four pixels for each tap.
        common += config.depths[i] * _block(config, i, height, width)
    return Flops(common + published, common + corrected)


def _block(config: BackboneConfig, stage: int, height: int, width: int) -> int:
    tokens, dim = height * width, config.dims[stage]
    hidden = config.mlp_ratio * dim
    flops = tokens * (2 * dim * hidden + (9 + 1) * hidden + dim)
    if config.window_sizes[stage]:
        flops += tokens * dim + _hilo(config, stage, height, width)
    return flops


def _hilo(config: BackboneConfig, stage: int, height: int, width: int) -> int:
    dim, num_heads = config.dims[stage], config.num_heads[stage]
    window = config.window_sizes[stage]
    low_heads = num_heads if window == 1 else int(num_heads * config.alpha)
    low = low_heads * (dim // num_heads)
    high = dim - low
    windows = -(-height // window) * -(-width // window)
    tokens = windows * window**2  # Those that the padding adds are computed too.
    high_flops = tokens * high * (3 * dim + high) + windows * 2 * window**4 * high
    low_flops = tokens * low * (dim + low) + windows * 2 * dim * low
    return high_flops + low_flops + tokens * windows * 2 * low


def count_mmcv_backbone(
    config: BackboneConfig, sizes: Sequence[tuple[int, int]]
) -> int:
    """Returns what mmcv 1.3 counts beyond the correct number, which may be negative."""
    flops = sizes[0][0] * sizes[0][1] * 2 * config.embed_dim  # Bias, norm of patches.
    for i, ((height, width), dim) in enumerate(zip(sizes, config.dims, strict=True)):
        n = height * width
        window, depth = config.window_sizes[i], config.depths[i]
        # All norms count twice.
        flops += depth * n * dim * (2 if window else 1)
        if window > 1:
            padded = [-(-side // window) * window for side in (height, width)]
            flops += depth * padded[0] * padded[1] * dim  # Pooling.
        if i:
            # It knows no deformable convolution.
            flops -= n * 4 * config.dims[i - 1] * (dim + 4)
    return flops


def count_fpn(fpn: Fpn, tokens: Sequence[int]) -> int:
    """Returns the correct number, which has no biases.

    Args:
        fpn: Of a model.
        tokens: Positions of each level, those of the extra ones last.
    """
    laterals = zip(fpn.laterals, tokens[: len(fpn.laterals)], strict=True)
    flops = sum(n * layer.in_features * layer.out_features for layer, n in laterals)
    outputs = zip(fpn.outputs, tokens[: len(fpn.outputs)], strict=True)
    return flops + sum(
        n * 9 * layer.in_features * layer.out_features for layer, n in outputs
    )


def count_fpn_biases(fpn: Fpn, tokens: Sequence[int]) -> int:
    """Returns how much mmcv counts for them; arguments as in `count_fpn`."""
    layers = [*zip(fpn.laterals, tokens, strict=False)]
    layers += [*zip(fpn.outputs, tokens, strict=False)]
    return sum(n * layer.out_features for layer, n in layers)
