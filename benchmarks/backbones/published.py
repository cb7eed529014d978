"""The backbones of about the size of LITv2-S that it is compared with, by name.

Focal-T, CSWin-T and EdgeViT are not in timm, whose FocalNet is another model.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """A classifier for 224 pixels.

    Attributes:
        torch_name: What `TorchPeer` calls it.
        top1: Published accuracy on ImageNet-1K, without other data, in percent.
        source: Of the accuracy.
    """

    torch_name: str
    top1: float
    source: str


OURS = "LITv2-S"
BACKBONES = {
    OURS: Backbone("litv2_s", 82.0, "arXiv:2205.13213"),
    "ResNet-50": Backbone("timm/resnet50", 80.4, "arXiv:2110.00476, recipe A1"),
    "ConvNeXt-T": Backbone("timm/convnext_tiny", 82.1, "arXiv:2201.03545"),
    "Swin-T": Backbone("timm/swin_tiny_patch4_window7_224", 81.3, "arXiv:2103.14030"),
    "Twins-SVT-S": Backbone("timm/twins_svt_small", 81.7, "arXiv:2104.13840"),
    "PVTv2-B2": Backbone("timm/pvt_v2_b2", 82.0, "arXiv:2106.13797"),
}
