"""AdamW and its learning rates, as in the published recipe."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from litv2_jax.settings import ConfigError, OneOf, Range

SCHEDULES = ("cosine", "polynomial")
DECAYS = ("matrices", "all")

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
        base_batch_size: Images per update that the rates are for; they grow in
            proportion to the real number.
        warmup_epochs: Length of the linear warm-up.
        weight_decay: Decoupled decay of the arrays that decay.
        offset_scale: Largest rate of the convolutions that predict offsets, over that
            of everything else.
        clip_norm: Largest norm of the gradient; 0 leaves it as it is.
        schedule: How the rate falls after the warm-up: `cosine`, or `polynomial` as in
            mmsegmentation's recipes.
        decay: What decays: `matrices`, arrays of two or more dimensions, or `all`.
    """

    learning_rate: Annotated[float, Range(above=0, most=10)]
    warmup_learning_rate: _Rate
    end_learning_rate: _Rate
    base_batch_size: Annotated[int, Range(1, 2**24)]
    warmup_epochs: Annotated[float, Range(0, 10**6)]
    weight_decay: Annotated[float, Range(0, 10)]
    offset_scale: Annotated[float, Range(0, 100)]
    clip_norm: Annotated[float, Range(0, 10**6)]
    schedule: Annotated[str, OneOf(*SCHEDULES)] = "cosine"
    decay: Annotated[str, OneOf(*DECAYS)] = "matrices"

    def check(self, epochs: float) -> None:
        """Raises ConfigError if values contradict each other."""
        if not 0 <= self.warmup_epochs <= epochs:
            raise ConfigError(
                f"config.optimizer.warmup_epochs is {self.warmup_epochs} but must be "
                f"within 0 and config.epochs, {epochs}."
            )


def create_schedules(
    settings: OptimizerSettings,
    *,
    batch_size: int,
    steps_per_epoch: int,
    num_steps: int,
) -> tuple[optax.Schedule, optax.Schedule]:
    """Returns the learning rates by step of the weights and of the offset convolutions.

    The original's classification sets the rate after each update, so that steps 0 and 1
    both have the first, and its cosine runs over all steps, the warm-up included, so
    that the rate drops a little where the warm-up ends. The polynomial is mmcv's, set
    before each update.

    Args:
        settings: The recipe.
        batch_size: Images per update.
        steps_per_epoch: Updates per epoch.
        num_steps: Updates in all.
    """
    scale = batch_size / settings.base_batch_size
    start = settings.warmup_learning_rate * scale
    end = settings.end_learning_rate * scale
    warmup_steps = int(settings.warmup_epochs * steps_per_epoch)

    def create(peak: float) -> optax.Schedule:
        def schedule(step: ArrayLike) -> jax.Array:
            t = jnp.asarray(step, jnp.float32)
            if settings.schedule == "cosine":
                t = jnp.maximum(t - 1, 0)
            left = jnp.maximum(num_steps - t, 0) / num_steps
            if settings.schedule == "cosine":
                # (1 + cos(pi t / n)) / 2, without the cancellation near the end.
                share = jnp.square(jnp.sin(0.5 * jnp.pi * left))
            else:
                share = left**_POWER
            warmup = start + t * ((peak - start) / max(warmup_steps, 1))
            return jnp.where(t < warmup_steps, warmup, end + (peak - end) * share)

        return schedule

    peak = settings.learning_rate * scale
    return create(peak), create(peak * settings.offset_scale)


def create_optimizer(
    settings: OptimizerSettings, schedules: tuple[optax.Schedule, optax.Schedule]
) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW with clipping, decay of what is to decay, and slow offsets.

    Its `update` takes the step of the run as `step`, which the rates are read at.
    """
    clip = optax.identity()
    if settings.clip_norm:
        clip = optax.clip_by_global_norm(settings.clip_norm)
    mask = decays if settings.decay == "matrices" else None
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(settings.weight_decay, mask=mask),
        _scale_by_rates(*schedules),
    )


def decays(params: Any) -> Any:
    """Returns for each array whether it is a matrix: biases and scales are not."""
    return jax.tree.map(lambda x: x.ndim >= 2, params)


def _scale_by_rates(
    schedule: optax.Schedule, offset_schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Multiplies by the negative learning rates.

    Optax's own count the updates made; an update that was left out would delay them.
    """

    def init(params: Any) -> Any:
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra: Any):
        step = extra["step"]
        rate, offset_rate = (jnp.asarray(s(step)) for s in (schedule, offset_schedule))

        def scale(path: tuple, x: jax.Array) -> jax.Array:
            names = [str(getattr(entry, "key", entry)) for entry in path]
            # The bias of the offsets learns at the full rate in the original.
            is_offset = names[-2:] == ["offset", "kernel"]
            return -(offset_rate if is_offset else rate) * x

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
