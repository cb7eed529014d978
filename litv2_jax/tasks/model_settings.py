"""Settings of the model, whatever the task."""

import dataclasses
import typing
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx

from litv2_jax import models
from litv2_jax.models.backbone import BackboneConfig, Rate
from litv2_jax.models.blocks import RGB
from litv2_jax.models.family import find_family
from litv2_jax.settings import DTYPES, ConfigError, OneOf, Text, check_names, convert


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
    drop_path_rate: Rate
    dtype: Annotated[str, OneOf(*DTYPES)]
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
        kinds = _list_sizes(self.name)
        check_names(self.sizes, kinds, "config.model.sizes")
        for name, value in self.sizes.items():
            convert(value, kinds[name], f"config.model.sizes.{name}")
        in_chans = self.sizes.get("in_chans", RGB)
        if in_chans != RGB:
            raise ConfigError(
                f"config.model.sizes.in_chans is {in_chans}, but data sets give RGB "
                f"images, of {RGB} channels: remove it, or train create_model(..., "
                f"in_chans={in_chans}) in a loop of your own."
            )
        try:
            nnx.eval_shape(lambda: self.build(nnx.Rngs(0), num_classes=1))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"config.model cannot be built: {error}") from None


# Fields of the configurations that `sizes` may not have.
_NOT_SIZES = ("backbone", "num_classes", "drop_path_rate")


def _list_sizes(name: str) -> dict[str, Any]:
    """Returns the sizes of a model that a recipe may set, and what each may be."""
    own = type(find_family(name).configs[name])
    kinds: dict[str, Any] = {}
    for config in (BackboneConfig, own):
        kinds |= typing.get_type_hints(config, include_extras=True)
    return {size: kind for size, kind in kinds.items() if size not in _NOT_SIZES}
