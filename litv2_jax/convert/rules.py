"""PyTorch names of our modules' attributes.

One table per module class, so that any module converts, alone or inside a model. The
names are those of the published code (`classification/models/litv2.py`), `{}` is the
index in a list. A family brings the table of its own modules, see `models.family`.
"""

from collections.abc import Mapping

from litv2_jax.models.backbone import Backbone, Stage
from litv2_jax.models.batch_norm import BatchNorm
from litv2_jax.models.blocks import (
    Block,
    ConvMlp,
    DepthwiseConvGelu,
    DropPath,
    PatchEmbedding,
)
from litv2_jax.models.family import list_families
from litv2_jax.models.hilo import HiLo
from litv2_jax.models.layer_norm import LayerNorm, NoNorm
from litv2_jax.models.linear import Conv, Linear
from litv2_jax.models.merging import DeformableTokenMerging
from litv2_jax.models.patch_conv import PatchConv

_KERNEL_AND_BIAS = {"kernel": "weight", "bias": "bias"}
_SCALE_AND_BIAS = {"scale": "weight", "bias": "bias"}

_NAMES: dict[type, dict[str, str]] = {
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

# PyTorch's axis of each of ours, by their number: in PyTorch a Linear is (out, in), a
# convolution (out, in, height, width), a transposed one (in, out, height, width).
AXES_FROM_TORCH = {0: (), 1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def torch_names() -> dict[type, Mapping[str, str]]:
    """Returns the PyTorch names of attributes, by class of module."""
    names: dict[type, Mapping[str, str]] = dict(_NAMES)
    for family in list_families():
        names.update(family.torch_names)
    return names
