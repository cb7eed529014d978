"""FLOPs of a model, by the original's own counting and by a correct one.

As in the literature, one multiplication with its addition counts as one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flax import nnx

from litv2_jax.models.backbone import NUM_STAGES, BackboneConfig
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.family import family_of
from litv2_jax.models.fpn import Fpn
from litv2_jax.models.semantic_fpn import (
    ConvNormRelu,
    SemanticFpn,
    SemanticFpnHead,
)


class Flops(NamedTuple):
    """FLOPs of one image.

    Attributes:
        published: As the original counts. In a classifier, the convolution of the
            offsets with 12 outputs instead of 8, the last norm at four times its size,
            no sampling. In Semantic FPN, no deformable convolution at all, norms
            twice, and biases and activations that mmcv knows.
        corrected: The same without these errors: matrix products, convolutions, norms
            and sampling.
    """

    published: int
    corrected: int


def count_flops(model: nnx.Module, image_size: int | tuple[int, int]) -> Flops:
    """Counts the FLOPs of one image.

    Published numbers are those of `flops` in the original's models/litv2.py for a
    classifier, and of its segmentation/get_flops.py for Semantic FPN.

    Args:
        model: From `create_model`; only its sizes matter.
        image_size: Pixels, or (height, width).

    Raises:
        ValueError: If the model is only a part of one.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"A {type(model).__name__} is not a model from create_model, whose FLOPs "
            "could be counted."
        )
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    return family.count_flops(model, image_size)


def count_classifier(model: Classifier, image_size: tuple[int, int]) -> Flops:
    """Counts the FLOPs of a classifier; see `count_flops`."""
    config, sizes = model.backbone.config, _map_sizes(image_size)
    flops = _backbone(config, sizes)
    tokens = [height * width for height, width in sizes]
    head = config.dims[-1] * model.head.out_features
    first = tokens[0] // 2**NUM_STAGES
    return Flops(
        flops.published + config.dims[-1] * first + head,
        flops.corrected + config.dims[-1] * tokens[-1] + head,
    )


def count_semantic_fpn(model: SemanticFpn, image_size: tuple[int, int]) -> Flops:
    """Counts the FLOPs of a Semantic FPN; see `count_flops`."""
    config, sizes = model.backbone.config, _map_sizes(image_size)
    tokens = [height * width for height, width in sizes]
    corrected = _backbone(config, sizes).corrected + _fpn(model.fpn, tokens)
    corrected += sum(n * dim for n, dim in zip(tokens, config.dims, strict=True))
    classify = model.head.classify
    corrected += tokens[0] * classify.in_features * classify.out_features
    for conv, positions in _convs(model.head, tokens):
        corrected += positions * conv.out_features * (9 * conv.in_features + 1)
    return Flops(corrected + _mmcv_difference(model, sizes), corrected)


def _map_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns height and width of the map of each stage."""
    height, width = (-(-side // 4) for side in image_size)
    return [(height // 2**i, width // 2**i) for i in range(NUM_STAGES)]


def _backbone(config: BackboneConfig, sizes: Sequence[tuple[int, int]]) -> Flops:
    """Counts patch embedding, blocks and merging."""
    tokens = sizes[0][0] * sizes[0][1]
    common = tokens * config.embed_dim * (3 * 4 * 4 + 1)  # Patch embedding, its norm.
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


def _fpn(fpn: Fpn, tokens: Sequence[int]) -> int:
    flops = 0
    for lateral, output, n in zip(fpn.laterals, fpn.outputs, tokens, strict=True):
        flops += (
            n * lateral.out_features * (lateral.in_features + 9 * output.in_features)
        )
    return flops


def _convs(
    head: SemanticFpnHead, tokens: Sequence[int]
) -> Iterator[tuple[nnx.Conv, int]]:
    """Yields the 3x3 convolutions, each with the positions that it computes."""
    for branch, n in zip(head.branches, tokens, strict=True):
        layers = [layer for layer in branch.layers if isinstance(layer, ConvNormRelu)]
        for i, layer in enumerate(layers):
            yield layer.conv, n * 4**i


def _mmcv_difference(model: SemanticFpn, sizes: Sequence[tuple[int, int]]) -> int:
    """Returns what mmcv 1.3 counts beyond the correct number, which may be negative."""
    config, fpn, head = model.backbone.config, model.fpn, model.head
    tokens = [height * width for height, width in sizes]
    flops = tokens[0] * 2 * config.embed_dim  # Bias and norm of the patch embedding.
    flops += tokens[0] * head.classify.out_features  # Its bias.
    for i, (n, dim) in enumerate(zip(tokens, config.dims, strict=True)):
        window, depth = config.window_sizes[i], config.depths[i]
        # All norms count twice.
        flops += n * dim + depth * n * dim * (2 if window else 1)
        if window > 1:
            padded = [-(-side // window) * window for side in sizes[i]]
            flops += depth * padded[0] * padded[1] * dim  # Pooling.
        if i:
            # It knows no deformable convolution.
            flops -= n * 4 * config.dims[i - 1] * (dim + 4)
        flops += 2 * n * fpn.outputs[i].out_features  # Biases.
        dim = head.classify.in_features
        flops += sum(n * 4**k * dim for k in range(1, i + 1))  # Resizing.
    for conv, positions in _convs(head, tokens):
        flops += positions * 2 * conv.out_features  # Norm once more, ReLU.
    return flops
