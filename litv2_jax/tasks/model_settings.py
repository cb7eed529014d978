"""What a recipe says of the model, whatever the task."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from litv2_jax import models
from litv2_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Section `model` of a recipe.

    Attributes:
        name: One of `list_models()`.
        drop_path_rate: Stochastic depth of the last block.
        dtype: Type of the computation, `float32` or `bfloat16`.
        sizes: Other arguments of `create_model`, such as `depths`.
    """

    name: str
    drop_path_rate: float
    dtype: str
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
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(
                f"config.model.dtype is {self.dtype!r}; use float32 or bfloat16."
            )
        try:
            nnx.eval_shape(lambda: self.build(nnx.Rngs(0), num_classes=1))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"config.model cannot be built: {error}") from None
        names = models.list_models(task)
        if self.name not in names:
            raise ConfigError(
                f"config.model.name is {self.name!r}, which is no model for this task; "
                f"there are {', '.join(names)}."
            )
