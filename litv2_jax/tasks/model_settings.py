"""What a recipe says of the model, whatever the task."""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx

from litv2_jax import models
from litv2_jax.settings import ConfigError, OneOf, Range, Text, check_names, convert

_Size = Annotated[int, Range(1, 4096)]
_Rate = Annotated[float, Range(0, below=1)]

# What `sizes` may have.
_SIZES = {
    "embed_dim": _Size,
    "depths": tuple[Annotated[int, Range(1, 200)], ...],
    "num_heads": tuple[_Size, ...],
    "window_sizes": tuple[Annotated[int, Range(0, 64)], ...],
    "alpha": Annotated[float, Range(0, 1)],
    "fpn_dim": _Size,
    "head_dim": _Size,
    "dropout_rate": _Rate,
    "num_convs": Annotated[int, Range(0, 64)],
    "hidden_dim": _Size,
}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Section `model` of a recipe.

    Attributes:
        name: One of `list_models()`.
        drop_path_rate: Stochastic depth of the last block.
        dtype: Type of the computation, `float32` or `bfloat16`.
        sizes: Other arguments of `create_model`, such as `depths`.
    """

    name: Text
    drop_path_rate: _Rate
    dtype: Annotated[str, OneOf("float32", "bfloat16")]
    sizes: dict[str, Any]

    def build(self, rngs: nnx.Rngs, num_classes: int) -> nnx.Module:
        """Returns the model."""
        return models.create_model(
            self.name,
            rngs=rngs,
            num_classes=num_classes,
            drop_path_rate=self.drop_path_rate,
            dtype=jnp.dtype(self.dtype),
            **self.sizes,
        )

    def check(self, task: str) -> None:
        """Raises ConfigError if there is no such model, or it is for another task."""
        names = models.list_models(task)
        if self.name not in names:
            raise ConfigError(
                f"config.model.name is {self.name!r}, which is no model for this task; "
                f"there are {', '.join(names)}."
            )
        check_names(self.sizes, _SIZES, "config.model.sizes")
        for name, value in self.sizes.items():
            convert(value, _SIZES[name], f"config.model.sizes.{name}")
        try:
            nnx.eval_shape(lambda: self.build(nnx.Rngs(0), num_classes=1))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"config.model cannot be built: {error}") from None
