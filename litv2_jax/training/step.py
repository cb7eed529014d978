"""The update shared by every task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from litv2_jax.training.task import Batch, Task


@struct.dataclass
class TrainState:
    """What a run needs to resume, in nested dictionaries of arrays.

    Attributes:
        step: [] int32, updates made so far.
        params: Weights.
        stats: Running statistics of BatchNorm.
        opt_state: Moments of the optimizer.
    """

    step: jax.Array
    params: dict[str, Any]
    stats: dict[str, Any]
    opt_state: optax.OptState

    @classmethod
    def create(
        cls, model: nnx.Module, optimizer: optax.GradientTransformation
    ) -> "TrainState":
        """Returns the state of a run that has not begun."""
        params, stats = split_state(model)
        step = jnp.zeros((), jnp.int32)
        return cls(step, params, stats, optimizer.init(params))

    def apply(
        self,
        grads: dict[str, Any],
        stats: dict[str, Any],
        optimizer: optax.GradientTransformation,
    ) -> "TrainState":
        """Returns the state after one more update."""
        updates, opt_state = optimizer.update(grads, self.opt_state, self.params)
        params: Any = optax.apply_updates(self.params, updates)
        return TrainState(self.step + 1, params, stats, opt_state)


def split_state(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics."""
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def make_train_step(
    graphdef: nnx.GraphDef,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, batch, key)`, compiled; it overwrites the state given.

    Its scalars are those of the task, `loss`, `grad_norm` and `learning_rate`.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array):
        # Folding in the step lets a resumed run draw what it would have drawn.
        augment_key, model_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = task.augment(batch, augment_key)

        def loss_fn(params):
            model = nnx.merge(graphdef, params, state.stats)
            loss, scalars = task.loss(model, batch, nnx.Rngs(model_key))
            return loss, (scalars, split_state(model)[1])

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (scalars, stats)), grads = grad_fn(state.params)
        scalars = {
            **scalars,
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        return state.apply(grads, stats, optimizer), scalars

    return jax.jit(step, donate_argnums=0)


def make_eval_step(
    graphdef: nnx.GraphDef, task: Task, out_sharding: jax.sharding.Sharding
) -> Callable[[dict[str, Any], dict[str, Any], Batch], Batch]:
    """Returns `evaluate(params, stats, batch)`, compiled; all hosts get all outputs."""

    def evaluate(params: dict[str, Any], stats: dict[str, Any], batch: Batch) -> Batch:
        return task.evaluate(nnx.merge(graphdef, params, stats), batch)

    return jax.jit(evaluate, out_shardings=out_sharding)
