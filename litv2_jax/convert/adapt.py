"""Weights for a model that differs at its ends: in channels of images, without a head.

What is adapted or left out is said in a sentence, never done silently.
"""

import numpy as np

from litv2_jax.convert.entries import FIRST_LAYER
from litv2_jax.convert.model_arrays import Entry
from litv2_jax.models.blocks import RGB
from litv2_jax.models.classifier import Classifier


def adapt_channels(kernel: np.ndarray, in_chans: int, axis: int) -> np.ndarray:
    """Returns the first layer's kernel for images of another number of channels.

    As `adapt_input_conv` of timm: the sum over red, green and blue for one channel;
    otherwise the three in turns, scaled by 3 / in_chans so that sums stay as large.

    Args:
        kernel: With three channels.
        in_chans: Channels to return.
        axis: Axis of the channels.
    """
    if in_chans == 1:
        adapted = kernel.sum(axis, keepdims=True, dtype=np.float32)
    else:
        turns = kernel.take(np.arange(in_chans) % RGB, axis)
        adapted = turns.astype(np.float32) * (RGB / in_chans)
    return adapted.astype(kernel.dtype)


def explain_channels(in_chans: int) -> str:
    """Returns a sentence on a kernel that `adapt_channels` has adapted."""
    how = (
        "its kernel is summed over red, green and blue"
        if in_chans == 1
        else f"its kernels are repeated in turns and scaled by 3/{in_chans}"
    )
    return (
        f"The first layer is adapted from 3 channels to {in_chans}: {how}, as in timm. "
        "It should be trained."
    )


def explain_no_head(num_classes: int) -> str:
    """Returns a sentence on weights whose head a model has no use for."""
    return (
        f"The head (head.bias, head.weight), for {num_classes} classes, is left out: "
        "the model has num_classes=0 and returns features."
    )


def adapt_first_layer(
    entries: list[Entry], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Adapts the first layer to a model for images of other than three channels.

    Args:
        entries: Of the model.
        arrays: By PyTorch name, in PyTorch's layout.

    Returns:
        The arrays, and sentences on what was adapted.
    """
    for entry in entries:
        name, wanted = entry.torch_name, entry.torch_shape[1:2]
        if not name.endswith(FIRST_LAYER) or name not in arrays:
            continue
        if arrays[name].shape[1:2] == (RGB,) != wanted:
            adapted = adapt_channels(arrays[name], wanted[0], axis=1)
            return {**arrays, name: adapted}, [explain_channels(wanted[0])]
    return arrays, []


def leave_out_head(
    model: object, arrays: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leaves out a classifier's head if the model has none.

    Arrays that can be no head of the model stay, so that a damaged file is refused.

    Args:
        model: To fill.
        arrays: By PyTorch name, in PyTorch's layout.

    Returns:
        The other arrays, and sentences on what was left out.
    """
    if not isinstance(model, Classifier) or model.head is not None:
        return arrays, []
    weight, bias = arrays.get("head.weight"), arrays.get("head.bias")
    dim = model.backbone.config.dims[-1]
    if weight is None or bias is None or weight.shape != (*bias.shape, dim):
        return arrays, []
    rest = {n: x for n, x in arrays.items() if n not in ("head.weight", "head.bias")}
    return rest, [explain_no_head(len(weight))]
