"""FLOPs of a model, by the original's own counting and by a correct one.

As in the literature, one multiplication with its addition counts as one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx

from litv2_jax.models.backbone_flops import (
    Flops,
    count_backbone,
    count_fpn,
    count_fpn_biases,
    count_mmcv_backbone,
    find_map_sizes,
)
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.family import family_of
from litv2_jax.models.image_sizes import NUM_STAGES
from litv2_jax.models.semantic_fpn import (
    ConvNormRelu,
    SemanticFpn,
    SemanticFpnHead,
)


def count_flops(model: Any, image_size: int | tuple[int, int]) -> Flops:
    """Counts the FLOPs of one image.

    Published numbers are those of `flops` in the original's models/litv2.py for a
    classifier, and of its segmentation/get_flops.py and detection/tools/get_flops.py.

    Args:
        model: From `create_model`, of which only the sizes matter; anything that is of
            no family is counted as a classifier, by `backbone.config` and
            `head.out_features`.
        image_size: Pixels, or (height, width).
    """
    family = family_of(model)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    count = family.count_flops if family else count_classifier
    return count(model, image_size)


def count_classifier(model: Classifier, image_size: tuple[int, int]) -> Flops:
    """Counts the FLOPs of a classifier; see `count_flops`."""
    config, sizes = model.backbone.config, find_map_sizes(image_size)
    flops = count_backbone(config, sizes)
    tokens = [height * width for height, width in sizes]
    head = config.dims[-1] * model.head.out_features if model.head else 0
    first = tokens[0] // 2**NUM_STAGES
    return Flops(
        flops.published + config.dims[-1] * first + head,
        flops.corrected + config.dims[-1] * tokens[-1] + head,
    )


def count_semantic_fpn(model: SemanticFpn, image_size: tuple[int, int]) -> Flops:
    """Counts the FLOPs of a Semantic FPN; see `count_flops`."""
    config, sizes = model.backbone.config, find_map_sizes(image_size)
    tokens = [height * width for height, width in sizes]
    corrected = count_backbone(config, sizes).corrected + count_fpn(model.fpn, tokens)
    corrected += sum(n * dim for n, dim in zip(tokens, config.dims, strict=True))
    classify = model.head.classify
    corrected += tokens[0] * classify.in_features * classify.out_features
    for conv, positions in _convs(model.head, tokens):
        corrected += positions * conv.out_features * (9 * conv.in_features + 1)
    return Flops(corrected + _mmcv_difference(model, sizes), corrected)


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
    config, head = model.backbone.config, model.head
    tokens = [height * width for height, width in sizes]
    flops = count_mmcv_backbone(config, sizes) + count_fpn_biases(model.fpn, tokens)
    flops += tokens[0] * head.classify.out_features  # Its bias.
    for i, (n, dim) in enumerate(zip(tokens, config.dims, strict=True)):
        flops += n * dim  # The norm of the map, once more.
        dim = head.classify.in_features
        flops += sum(n * 4**k * dim for k in range(1, i + 1))  # Resizing.
    for conv, positions in _convs(head, tokens):
        flops += positions * 2 * conv.out_features  # Norm once more, ReLU.
    return flops
