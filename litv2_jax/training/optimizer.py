"""AdamW and its learning rates, as in the published recipe."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from litv2_jax.settings import ConfigError, OneOf, Range
from litv2_jax.training.groups import (
    FROZEN,
    TRAINED,
    GroupSettings,
    ParameterGroups,
)

SCHEDULES = ("cosine", "polynomial", "step")

# AdamW moves a weight by about its rate in each step: more than this only diverges.
_Rate = Annotated[float, Range(0, 10)]

# Of the polynomial, in all of mmsegmentation's recipes.
_POWER = 0.9


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Section `optimizer` of a recipe.

    Attributes:
        learning_rate: Largest rate, after the warm-up, at `base_batch_size`.
        warmup_learning_rate: Rate to begin with, at `base_batch_size`.
        end_learning_rate: Rate to end with, at `base_batch_size`.
        base_batch_size: Images per step that the rates are for; they grow in
            proportion to the real number.
        warmup_epochs: Length of the linear warm-up.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the gradient; 0 leaves it as it is.
        schedule: How the rate falls after the warm-up: `cosine`, or `polynomial` as in
            mmsegmentation's recipes.
        groups: What is trained in another way, as `(pattern, factor on the learning
            rate, factor on the weight decay)`; the first whose pattern, a regular
            expression, is found in a parameter's path counts. Rate 0 freezes.
        offset_scale: Factor on the rate of the convolutions that predict offsets; of
            recipes from before there were groups, which may go on using it.
        decay: What decays, likewise: `all`, or `matrices` for all but biases and
            scales.
    """

    learning_rate: Annotated[float, Range(above=0, most=10)]
    warmup_learning_rate: _Rate
    end_learning_rate: _Rate
    base_batch_size: Annotated[int, Range(1, 2**24)]
    warmup_epochs: Annotated[float, Range(0, 10**6)]
    weight_decay: Annotated[float, Range(0, 10)]
    clip_norm: Annotated[float, Range(0, 10**6)]
    schedule: Annotated[str, OneOf(*SCHEDULES)] = "cosine"
    drop_epochs: tuple[Annotated[float, Range(above=0, most=10**6)], ...] = ()
    groups: tuple[GroupSettings, ...] = ()
    offset_scale: Annotated[float, Range(0, 100)] = 1.0
    decay: Annotated[str, OneOf("all", "matrices")] = "all"

    @property
    def all_groups(self) -> tuple[GroupSettings, ...]:
        """The groups, and after them what `offset_scale` and `decay` stand for."""
        groups = self.groups
        if self.offset_scale != 1:
            groups += (("offset/kernel$", self.offset_scale, 1.0),)
        if self.decay == "matrices":
            groups += (("(bias|scale)$", 1.0, 0.0),)
        return groups

    def check(self, epochs: float) -> None:
        """Raises ConfigError if values contradict each other."""
        if not 0 <= self.warmup_epochs <= epochs:
            raise ConfigError(
                f"config.optimizer.warmup_epochs is {self.warmup_epochs} but must be "
                f"within 0 and config.epochs, {epochs}."
            )
        if (self.schedule == "step") != bool(self.drop_epochs):
            raise ConfigError(
                f"config.optimizer.schedule is {self.schedule} but drop_epochs is "
                f"{self.drop_epochs}: the schedule step needs them, and no other does."
            )
        if list(self.drop_epochs) != sorted(set(self.drop_epochs)):
            raise ConfigError(
                f"config.optimizer.drop_epochs is {self.drop_epochs}: give each epoch "
                "once, in rising order."
            )


def create_schedule(
    settings: OptimizerSettings,
    *,
    batch_size: int,
    steps_per_epoch: int,
    num_steps: int,
    factor: float = 1.0,
) -> optax.Schedule:
    """Returns the learning rate by step.

    The original's classification sets the rate after each step, so that steps 0 and 1
    both have the first, and its cosine runs over all steps, the warm-up included, so
    that the rate drops a little where the warm-up ends. The others are mmcv's, set
    before each step.

    Args:
        settings: The recipe.
        batch_size: Images per step.
        steps_per_epoch: Steps per epoch.
        num_steps: Steps in all.
        factor: On the largest rate; the first and the last one stay as they are.
    """
    scale = batch_size / settings.base_batch_size
    start = settings.warmup_learning_rate * scale
    end = settings.end_learning_rate * scale
    warmup_steps = int(settings.warmup_epochs * steps_per_epoch)
    peak = settings.learning_rate * scale * factor
    drops = [round(epoch * steps_per_epoch) for epoch in settings.drop_epochs]

    def fall(t: jax.Array) -> jax.Array:
        if settings.schedule == "step":
            passed = sum((jnp.where(t >= x, 1, 0) for x in drops), jnp.zeros(()))
            return peak * (end / peak) ** (passed / len(drops))
        left = jnp.maximum(num_steps - t, 0) / num_steps
        if settings.schedule == "polynomial":
            return end + (peak - end) * left**_POWER
        # (1 + cos(pi t / n)) / 2, without the cancellation near the end.
        share = jnp.square(jnp.sin(0.5 * jnp.pi * left))
        return end + (peak - end) * share

    def schedule(step: ArrayLike) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        if settings.schedule == "cosine":
            t = jnp.maximum(t - 1, 0)
        warmup = start + t * ((peak - start) / max(warmup_steps, 1))
        return jnp.where(t < warmup_steps, warmup, fall(t))

    return schedule


def create_optimizer(
    settings: OptimizerSettings,
    groups: ParameterGroups,
    create_rate: Callable[[float], optax.Schedule],
) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW with clipping, and the rates and decay of each group.

    Its `update` takes the step of the run as `step`, which the rates are read at. No
    moments are kept of what is frozen.

    Args:
        settings: The recipe.
        groups: The group of each parameter.
        create_rate: Returns the learning rate by step, given a group's factor.
    """
    clip = optax.identity()
    if settings.clip_norm:
        clip = optax.clip_by_global_norm(settings.clip_norm)
    trained = optax.chain(
        clip,
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        _add_decay(settings.weight_decay, groups),
        _scale_by_rates(groups, create_rate),
    )
    if not groups.has_frozen:
        return trained
    return optax.partition(
        {TRAINED: trained, FROZEN: optax.set_to_zero()}, groups.label
    )


def _add_decay(
    weight_decay: float, groups: ParameterGroups
) -> optax.GradientTransformationExtraArgs:
    """Adds the decay of each group."""

    def update(updates, state, params=None, **extra: Any):
        del extra

        def add(path: tuple, x: jax.Array, param: jax.Array) -> jax.Array:
            decay = weight_decay * groups.find(path).decay
            return x + decay * param if decay else x

        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformationExtraArgs(_init_empty, update)


def _scale_by_rates(
    groups: ParameterGroups, create_rate: Callable[[float], optax.Schedule]
) -> optax.GradientTransformationExtraArgs:
    """Multiplies by the negative learning rates.

    Optax's own count the steps applied; a step that was skipped would delay them.
    """

    def update(updates, state, params=None, **extra: Any):
        del params

        @functools.cache
        def compute_rate(factor: float) -> jax.Array:
            return jnp.asarray(create_rate(factor)(extra["step"]))

        def scale(path: tuple, x: jax.Array) -> jax.Array:
            return -compute_rate(groups.find(path).rate) * x

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(_init_empty, update)


def _init_empty(params: Any) -> Any:
    del params
    return optax.EmptyState()
