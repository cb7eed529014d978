"""Folds BatchNorm, the affine part of LayerNorm and the attention scale."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.backbone import find_images_at_once
from litv2_jax.models.batch_norm import FoldedNorm
from litv2_jax.models.blocks import Block
from litv2_jax.models.family import family_of
from litv2_jax.models.hilo import HiLo
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.merging import DeformableTokenMerging
from litv2_jax.models.roi_heads import DoubleSize
from litv2_jax.models.semantic_fpn import ConvNormRelu


def fuse_for_inference(model: nnx.Module) -> Any:
    """Returns a copy of a model that computes the same with fewer operations.

    BatchNorm becomes part of the convolution before it; scale and bias of a LayerNorm
    part of the one matrix product that reads it; the factor of the attention logits
    part of the projection to queries; and kernels are kept in the type that the model
    computes in. Outputs differ by the noise of float32, or of bfloat16. On a CPU, a
    batch passes all but the last stage a few images at a time.

    Such a model can be called, split and compiled like any other. It has other
    parameters than the original, so that it cannot be trained or converted.

    Args:
        model: From `create_model`; stays as it is.

    Raises:
        ValueError: If the model has been fused before, or is only a part of one.
    """
    family = family_of(model)
    model = nnx.clone(model)
    modules = [module for _, module in nnx.iter_modules(model)]
    kinds = {type(module) for module in modules}
    if FoldedNorm in kinds:
        raise ValueError("This model is fused already: use it as it is.")
    if family is None:
        raise ValueError(
            f"A {type(model).__name__} is only a part of a model: fuse what "
            "create_model returns."
        )
    for module in modules:
        if isinstance(module, DeformableTokenMerging):
            _fold_batch_norm(module, module)
        elif isinstance(module, ConvNormRelu):
            _fold_batch_norm(module, module.conv)
        elif isinstance(module, Block):
            _fold_layer_norm(module.norm2, module.mlp.expand)
        elif isinstance(module, HiLo):
            _fold_scale(module)
    for norm, layer in family.norms_to_fold(model):
        _fold_layer_norm(norm, layer)
    for module in modules:
        if not isinstance(module, nnx.Linear | nnx.Conv | DoubleSize):
            continue
        if module.dtype is not None:
            _replace(module, "kernel", _read(module.kernel), module.dtype)
    return nnx.view(model, images_at_once=find_images_at_once())


# In numpy, because JAX would compile a program for each of these sums and products.


def _fold_batch_norm(owner: Any, layer: Any) -> None:
    """Moves an owner's norm into the layer before it, which has a bias from then on."""
    norm = owner.norm
    scale = _read(norm.scale) / np.sqrt(_read(norm.var) + norm.epsilon)
    bias = np.zeros(()) if layer.bias is None else _read(layer.bias)
    bias = (bias - _read(norm.mean)) * scale + _read(norm.bias)
    _replace(layer, "kernel", _read(layer.kernel) * scale, norm.dtype)
    _replace(layer, "bias", bias)
    if isinstance(layer, nnx.Conv):
        layer.use_bias = True
    owner.norm = FoldedNorm()


def _fold_layer_norm(norm: LayerNorm, layer: nnx.Linear | nnx.Conv) -> None:
    """Moves scale and bias of a norm into the layer that alone reads it.

    The layer is a matrix product, which a 1x1 convolution is too.
    """
    kernel = _read(layer.kernel)
    shift = (_read(norm.bias) @ kernel).reshape(-1)
    _replace(layer, "bias", _read(layer.bias) + shift)
    _replace(layer, "kernel", _read(norm.scale)[:, None] * kernel)
    norm.remove_affine()


def _fold_scale(attention: HiLo) -> None:
    """Moves the factor of the logits into the queries."""
    layers = []
    if attention.high_heads:
        layers.append((attention.high_qkv, attention.high_qkv.out_features // 3))
    if attention.low_heads:
        layers.append((attention.low_q, attention.low_q.out_features))
    for layer, num_queries in layers:
        is_query = np.arange(layer.out_features) < num_queries
        factors = np.where(is_query, attention.scale, 1.0).astype(np.float32)
        _replace(layer, "kernel", _read(layer.kernel) * factors)
        if layer.bias is not None:
            _replace(layer, "bias", _read(layer.bias) * factors)
    attention.scale = 1.0


def _read(variable: Any) -> np.ndarray:
    return np.asarray(variable[...])


def _replace(
    module: nnx.Module, name: str, value: np.ndarray, dtype: DTypeLike = jnp.float32
) -> None:
    setattr(module, name, nnx.Param(jnp.asarray(value, dtype)))
