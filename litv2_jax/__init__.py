"""LITv2 (Fast Vision Transformers with HiLo Attention) in JAX and Flax.

Names are imported when they are first used, so that `import litv2_jax` loads Flax and
nothing heavier.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from litv2_jax.compiler import compiler_options
    from litv2_jax.convert.apply import load_torch_weights, to_torch_state_dict
    from litv2_jax.convert.torch_file import read_torch_checkpoint
    from litv2_jax.export import export
    from litv2_jax.fitting import fit
    from litv2_jax.inference import Predictor
    from litv2_jax.models.family import list_models
    from litv2_jax.models.flops import count_flops
    from litv2_jax.models.fuse import fuse_for_inference
    from litv2_jax.models.hilo import HiLo
    from litv2_jax.ops.implementations import use_implementation
    from litv2_jax.pretrained import create_model
    from litv2_jax.recipes import read_recipe
    from litv2_jax.weights.model_folder import save_pretrained

__all__ = [
    "HiLo",
    "Predictor",
    "compiler_options",
    "count_flops",
    "create_model",
    "export",
    "fit",
    "fuse_for_inference",
    "list_models",
    "load_torch_weights",
    "read_recipe",
    "read_torch_checkpoint",
    "save_pretrained",
    "to_torch_state_dict",
    "use_implementation",
]

_MODULES = {
    "HiLo": "models.hilo",
    "Predictor": "inference",
    "compiler_options": "compiler",
    "count_flops": "models",
    "create_model": "pretrained",
    "export": "export",
    "fit": "fitting",
    "fuse_for_inference": "models.fuse",
    "list_models": "models",
    "load_torch_weights": "convert.apply",
    "read_recipe": "recipes",
    "read_torch_checkpoint": "convert.torch_file",
    "save_pretrained": "weights",
    "to_torch_state_dict": "convert.apply",
    "use_implementation": "ops.implementations",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
