"""FLOPs of detectors, correct and as mmcv counts them."""

from litv2_jax.models.backbone_flops import (
    Flops,
    count_backbone,
    count_fpn,
    count_fpn_biases,
    count_mmcv_backbone,
    find_map_sizes,
)
from litv2_jax.models.linear import Conv, Linear
from litv2_jax.models.mask_rcnn import MaskRcnn
from litv2_jax.models.retinanet import RetinaNet
from litv2_jax.models.roi_heads import MASK_BINS

# What the original's command has the heads of Mask R-CNN look into.
_NUM_BOXES, _NUM_MASKS = 1000, 100


def count_detector(model: RetinaNet | MaskRcnn, image_size: tuple[int, int]) -> Flops:
    """Counts the FLOPs of a detector; see `models.flops.count_flops`."""
    config, sizes = model.backbone.config, find_map_sizes(image_size)
    backbone = count_backbone(config, sizes).corrected
    normed = zip(sizes[1:], config.dims[1:], strict=True)
    norms = sum(height * width * dim for (height, width), dim in normed)
    levels = list(sizes[len(sizes) - len(model.fpn.laterals) :])
    for _ in range(model.fpn.num_extra):
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    tokens = [height * width for height, width in levels]
    corrected = backbone + norms + count_fpn(model.fpn, tokens)
    # Norms count twice.
    difference = count_mmcv_backbone(config, sizes) + norms
    difference += count_fpn_biases(model.fpn, tokens)
    if isinstance(model, RetinaNet):
        heads, biases = _count_retinanet(model, sum(tokens))
    else:
        heads, biases = _count_mask_rcnn(model, sum(tokens))
    corrected += heads
    return Flops(corrected + difference + biases, corrected)


def _count_retinanet(model: RetinaNet, tokens: int) -> tuple[int, int]:
    """Returns FLOPs of the head, and what mmcv adds for biases and ReLUs."""
    towers = [*model.head.class_convs, *model.head.box_convs]
    last = [model.head.classify, model.head.regress]
    biases = sum(2 * x.out_features for x in towers)
    biases += sum(x.out_features for x in last)
    return tokens * sum(map(_count_position, [*towers, *last])), tokens * biases


def _count_mask_rcnn(model: MaskRcnn, tokens: int) -> tuple[int, int]:
    """Returns the same without the crops; mmcv counts no biases of matrix products."""
    rpn, box_head, mask_head = model.rpn, model.box_head, model.mask_head
    convs = [rpn.conv, rpn.classify, rpn.regress]
    flops = tokens * sum(map(_count_position, convs))
    biases = tokens * sum(x.out_features for x in convs)

    layers = [*box_head.hidden, box_head.classify, box_head.regress]
    flops += _NUM_BOXES * sum(map(_count_position, layers))
    biases += _NUM_BOXES * sum(x.out_features for x in box_head.hidden)  # ReLUs.

    positions = _NUM_MASKS * MASK_BINS**2
    flops += positions * sum(map(_count_position, mask_head.convs))
    biases += positions * sum(2 * x.out_features for x in mask_head.convs)
    size, _, out_features, in_features = mask_head.upsample.kernel.shape
    flops += positions * size**2 * in_features * out_features
    biases += positions * size**2 * 2 * out_features
    flops += positions * size**2 * _count_position(mask_head.classify)
    return flops, biases + positions * size**2 * mask_head.classify.out_features


def _count_position(layer: Conv | Linear) -> int:
    """Returns the FLOPs of one position of a layer."""
    size = layer.kernel_size[0] if isinstance(layer, Conv) else 1
    return size**2 * layer.in_features * layer.out_features
