"""The models that the worker runs: our LITv2, and timm's by the name `timm/NAME`."""

import importlib
import importlib.metadata
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.utils.flop_counter import (  # pyright: ignore[reportMissingImports]
    FlopCounterMode,
)

from benchmarks.torch_peer.litv2 import VARIANTS, LITv2

NUM_CLASSES = 1000
TIMM = "timm/"


def create_model(name: str) -> nn.Module:
    """Returns a classifier with random weights.

    Raises:
        ValueError: There is no such model.
    """
    if name.startswith(TIMM):
        # Only some runs need it, and only those have to have it.
        timm: Any = importlib.import_module("timm")
        return timm.create_model(name.removeprefix(TIMM), num_classes=NUM_CLASSES)
    if name not in VARIANTS:
        known = ", ".join((*VARIANTS, f"{TIMM}NAME"))
        raise ValueError(f"variant={name!r} is unknown; use {known}.")
    return LITv2(**VARIANTS[name], num_classes=NUM_CLASSES)


def count_model(name: str, image_size: int) -> dict[str, int]:
    """Counts the parameters of a model, and the multiply-adds of one image.

    Those of matrix products and convolutions, as PyTorch's own counter has them, which
    counts a multiplication and its addition as two. Nothing is computed.

    Args:
        name: As for `create_model`.
        image_size: Pixels.
    """
    with torch.device("meta"):
        model = create_model(name).eval()
        images = torch.empty(1, 3, image_size, image_size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }


def find_timm() -> dict[str, str]:
    """Returns the version of timm, or nothing where it is not installed."""
    try:
        return {"timm": importlib.metadata.version("timm")}
    except importlib.metadata.PackageNotFoundError:
        return {}
