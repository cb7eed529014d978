"""FLOPs of a classifier, by the original's own counting and by a correct one.

As in the literature, one multiplication with its addition counts as one.
"""

from typing import NamedTuple

from litv2_jax.models.backbone import NUM_STAGES, BackboneConfig
from litv2_jax.models.classifier import Classifier


class Flops(NamedTuple):
    """FLOPs of one image.

    Attributes:
        published: As the original counts: the convolution of the offsets with 12
            outputs instead of 8, the last norm at four times its size, no sampling.
        corrected: The same without these three errors.
    """

    published: int
    corrected: int


def count_flops(model: Classifier, image_size: int | tuple[int, int]) -> Flops:
    """Counts the FLOPs of one image (`flops` in the original's models/litv2.py).

    Args:
        model: From `create_model`; only its sizes matter.
        image_size: Pixels, or (height, width).
    """
    config, num_classes = model.backbone.config, model.head.out_features
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    height, width = (-(-side // 4) for side in image_size)
    tokens = height * width
    common = tokens * config.embed_dim * (3 * 4 * 4 + 1)  # Patch embedding, its norm.
    published = config.dims[-1] * tokens // 2**NUM_STAGES  # Last norm.
    corrected = 0
    for i in range(NUM_STAGES):
        if i:
            height, width = height // 2, width // 2
            tokens, dim = height * width, config.dims[i - 1]
            common += tokens * (4 * dim * 2 * dim + 2 * 2 * dim)  # Convolution, norm.
            published += tokens * 12 * (4 * dim + 1)  # Offsets.
            corrected += tokens * 8 * (4 * dim + 1)
            corrected += tokens * 4 * 4 * dim  # Sampling: four pixels for each tap.
        common += config.depths[i] * _block(config, i, height, width)
    corrected += tokens * config.dims[-1]
    common += config.dims[-1] * num_classes
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
