"""LITv2 (Fast Vision Transformers with HiLo Attention) in JAX and Flax."""

from litv2_jax.compiler import compiler_options
from litv2_jax.convert.apply import load_torch_weights, to_torch_state_dict
from litv2_jax.convert.torch_file import read_torch_checkpoint
from litv2_jax.models import list_models
from litv2_jax.models.flops import count_flops
from litv2_jax.models.fuse import fuse_for_inference
from litv2_jax.models.hilo import HiLo
from litv2_jax.ops.implementations import use_implementation
from litv2_jax.pretrained import create_model

__all__ = [
    "HiLo",
    "compiler_options",
    "count_flops",
    "create_model",
    "fuse_for_inference",
    "list_models",
    "load_torch_weights",
    "read_torch_checkpoint",
    "to_torch_state_dict",
    "use_implementation",
]
