"""What PyTorch calls the things that our modules keep in their attributes.

One table per module class, so that any module converts, alone or inside a model. The
names are those of the published code (`classification/models/litv2.py`), and of mmcv,
mmsegmentation and mmdetection; `{}` is the index in a list.
"""

from flax import nnx

from litv2_jax.models.backbone import Backbone, Stage
from litv2_jax.models.batch_norm import BatchNorm
from litv2_jax.models.blocks import (
    Block,
    ConvMlp,
    DepthwiseConvGelu,
    DropPath,
    PatchEmbedding,
)
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.fpn import Fpn
from litv2_jax.models.hilo import HiLo
from litv2_jax.models.layer_norm import LayerNorm, NoNorm
from litv2_jax.models.linear import Conv, Linear
from litv2_jax.models.mask_rcnn import MaskRcnn
from litv2_jax.models.merging import DeformableTokenMerging
from litv2_jax.models.patch_conv import PatchConv
from litv2_jax.models.retinanet import RetinaHead, RetinaNet
from litv2_jax.models.roi_heads import BoxHead, DoubleSize, MaskHead
from litv2_jax.models.rpn import RpnHead
from litv2_jax.models.semantic_fpn import (
    Branch,
    ConvNormRelu,
    SemanticFpn,
    SemanticFpnHead,
    Upsample,
)

_KERNEL_AND_BIAS = {"kernel": "weight", "bias": "bias"}
_SCALE_AND_BIAS = {"scale": "weight", "bias": "bias"}

TORCH_NAMES: dict[type, dict[str, str]] = {
    Classifier: {"backbone": "", "norm": "norm", "head": "head"},
    SemanticFpn: {
        "backbone": "backbone",
        "norms": "backbone.norm{}",
        "fpn": "neck",
        "head": "decode_head",
    },
    RetinaNet: {
        "backbone": "backbone",
        "norms": "backbone.norm{}",
        "fpn": "neck",
        "head": "bbox_head",
    },
    RetinaHead: {
        "class_convs": "cls_convs.{}.conv",
        "box_convs": "reg_convs.{}.conv",
        "classify": "retina_cls",
        "regress": "retina_reg",
    },
    MaskRcnn: {
        "backbone": "backbone",
        "norms": "backbone.norm{}",
        "fpn": "neck",
        "rpn": "rpn_head",
        "box_head": "roi_head.bbox_head",
        "mask_head": "roi_head.mask_head",
    },
    RpnHead: {"conv": "rpn_conv", "classify": "rpn_cls", "regress": "rpn_reg"},
    BoxHead: {
        "hidden": "shared_fcs.{}",
        "classify": "fc_cls",
        "regress": "fc_reg",
    },
    MaskHead: {
        "convs": "convs.{}.conv",
        "upsample": "upsample",
        "classify": "conv_logits",
    },
    DoubleSize: _KERNEL_AND_BIAS,
    Fpn: {"laterals": "lateral_convs.{}.conv", "outputs": "fpn_convs.{}.conv"},
    SemanticFpnHead: {
        "branches": "scale_heads.{}",
        "dropout": "dropout",
        "classify": "conv_seg",
    },
    Branch: {"layers": "{}"},
    ConvNormRelu: {"conv": "conv", "norm": "bn"},
    Upsample: {},
    nnx.Dropout: {},
    Backbone: {
        "patch_embedding": "patch_embed",
        "stages": "layers.{}",
        "merges": "layers.{}.downsample",
    },
    PatchEmbedding: {"project": "proj", "norm": "norm"},
    Stage: {"blocks": "blocks.{}"},
    Block: {
        "norm1": "norm1",
        "attention": "attn",
        "norm2": "norm2",
        "mlp": "mlp",
        "drop_path": "drop_path",
    },
    DropPath: {},
    HiLo: {
        "high_qkv": "h_qkv",
        "high_out": "h_proj",
        "low_q": "l_q",
        "low_kv": "l_kv",
        "low_out": "l_proj",
    },
    ConvMlp: {"expand": "fc1", "mix": "dwconv.dwconv", "project": "fc2"},
    DeformableTokenMerging: {
        "offset": "dconv.conv_offset",
        "kernel": "dconv.weight",
        "bias": "dconv.bias",
        "norm": "norm_layer",
    },
    BatchNorm: {
        **_SCALE_AND_BIAS,
        "mean": "running_mean",
        "var": "running_var",
        "num_batches": "num_batches_tracked",
    },
    DepthwiseConvGelu: _KERNEL_AND_BIAS,
    PatchConv: _KERNEL_AND_BIAS,
    Conv: _KERNEL_AND_BIAS,
    Linear: _KERNEL_AND_BIAS,
    LayerNorm: _SCALE_AND_BIAS,
    NoNorm: {},
}

# Where our axes come from in PyTorch, by their number: a Linear is (out, in) there, a
# convolution (out, in, height, width), a transposed one (in, out, height, width).
AXES_FROM_TORCH = {0: (), 1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
