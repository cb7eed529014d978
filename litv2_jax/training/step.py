"""The training step, the same for every task."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.typing import DTypeLike

from litv2_jax.compiler import compiler_options
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.task import Batch, Task


@struct.dataclass
class TrainState:
    """What a run needs to resume, in nested dictionaries of arrays.

    Attributes:
        step: [] int32, steps made so far.
        params: Weights.
        stats: Running statistics of BatchNorm.
        opt_state: Moments of the optimizer.
        average: Moving averages, `params` and `stats`; empty if none are kept.
    """

    step: jax.Array
    params: dict[str, Any]
    stats: dict[str, Any]
    opt_state: optax.OptState
    average: dict[str, Any] = struct.field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        params: dict[str, Any],
        stats: dict[str, Any],
        optimizer: optax.GradientTransformation,
        *,
        has_average: bool = False,
    ) -> "TrainState":
        """Returns the initial state of a run."""
        step = jnp.zeros((), jnp.int32)
        state = cls(step, params, stats, optimizer.init(params))
        return state.start_average() if has_average else state

    def start_average(self) -> "TrainState":
        """Returns the state with averages that are the weights as they are."""
        # Copies, because a step gives away what its state is made of.
        average = {"params": self.params, "stats": self.stats}
        return dataclasses.replace(self, average=jax.tree.map(jnp.copy, average))

    def served(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the weights and statistics to evaluate: the averages, if any."""
        if not self.average:
            return self.params, self.stats
        return self.average["params"], self.average["stats"]

    def apply(
        self,
        grads: dict[str, Any],
        stats: dict[str, Any],
        optimizer: optax.GradientTransformationExtraArgs,
        is_finite: jax.Array,
        ema_decay: float = 0.0,
    ) -> "TrainState":
        """Returns the next state: only `step` changes unless `is_finite`."""
        updates, opt_state = optimizer.update(
            grads, self.opt_state, self.params, step=self.step
        )
        params = optax.apply_updates(self.params, updates)
        average = self.average
        if average:
            latest = {"params": params, "stats": stats}
            average = update_average(average, latest, ema_decay, self.step)
        new = params, stats, opt_state, average
        old = self.params, self.stats, self.opt_state, self.average
        kept: Any = jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), new, old)
        return TrainState(self.step + 1, *kept)


def update_average(average: Any, latest: Any, decay: float, step: jax.Array) -> Any:
    """Returns moving averages after a step, as timm's ModelEma keeps them.

    Running statistics are averaged like weights; counts are the latest. The decay
    rises from 0.1, as TensorFlow's does, so that the first weights are soon forgotten.

    Args:
        average: Averages so far.
        latest: What the step has made of weights and statistics.
        decay: Share of the averages that stays, in the long run.
        step: [] Steps made before this one.
    """
    step = step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def update(old: jax.Array, new: jax.Array) -> jax.Array:
        is_count = not jnp.issubdtype(new.dtype, jnp.floating)
        return new if is_count else old + rate * (new - old)

    return jax.tree.map(update, average, latest)


@functools.lru_cache(maxsize=1)
def create_abstract_model(task: Task) -> nnx.Module:
    """Returns the task's model with shapes for arrays; cached, as it takes seconds."""
    return nnx.eval_shape(lambda: task.build(nnx.Rngs(0)))


def create_graphdef(task: Task, **view: Any) -> nnx.GraphDef:
    """Returns the static half of the task's model.

    Args:
        task: Builds the model.
        **view: Attributes to set in its layers, as for `nnx.view`.

    Raises:
        ConfigError: If no layer has one of them.
    """
    model = create_abstract_model(task)
    known = _find_views(model)
    for name in view:
        if name not in known:
            raise ConfigError(
                f"{name} is not an attribute to set in a {type(model).__name__}; there "
                f"are {', '.join(sorted(known))}."
            )
    return nnx.split(nnx.view(model, **view), nnx.Param, nnx.BatchStat)[0]


def _find_views(model: nnx.Module) -> set[str]:
    """Returns what `nnx.view` can set; it is silent where a layer takes any name."""
    names: set[str] = set()
    for _, module in nnx.iter_modules(model):
        if set_view := getattr(module, "set_view", None):
            parameters = inspect.signature(set_view).parameters.values()
            names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return names


def make_train_step(
    graphdef: nnx.GraphDef,
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule,
    *,
    freeze: Callable[[Any], Any] = lambda params: params,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    out_sharding: jax.sharding.Sharding | None = None,
    dtype: DTypeLike = "float32",
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, batch, key)`, compiled; it donates the state.

    Its scalars are those of the task, `loss`, `grad_norm`, `learning_rate`,
    `num_unreadable` of the batch, the largest of all processes, and `skipped`: a step
    is not applied if its loss, its learning rate, the norm of its gradient or of the
    weights, or a running statistic is not finite.

    Args:
        graphdef: Static half of the model, from `nnx.split(model, Param, BatchStat)`.
        task: The task to train.
        optimizer: From `create_optimizer`.
        schedule: Learning rate by step, to report.
        freeze: Stops the gradient of some of the parameters it gets.
        accumulation_steps: Equal parts of the batch whose gradients are computed one
            after the other, which saves memory, and averaged.
        ema_decay: Of the averages in the state, if it has any.
        out_sharding: Of the state and the scalars; None leaves it to XLA, for programs
            that are only inspected.
        dtype: Type that the model computes in, for the compiler.
    """

    def differentiate(params, stats, batch: Batch, key: jax.Array):
        def loss_fn(params):
            model = nnx.merge(graphdef, freeze(params), stats)
            loss, scalars = task.loss(model, batch, nnx.Rngs(key))
            return loss, ({**scalars, "loss": loss}, split_state(model)[1])

        grads, (scalars, stats) = jax.grad(loss_fn, has_aux=True)(params)
        return grads, stats, scalars

    def accumulate(params, stats, batch: Batch, key: jax.Array):
        def add_part(carry, part):
            total, stats = carry
            grads, stats, scalars = differentiate(params, stats, *part)
            return (jax.tree.map(jnp.add, total, grads), stats), scalars

        parts = jax.tree.map(lambda x: _split_rows(x, accumulation_steps), batch)
        keys = jax.random.split(key, accumulation_steps)
        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, stats), scalars = jax.lax.scan(add_part, (zeros, stats), (parts, keys))
        grads = jax.tree.map(lambda x: x / accumulation_steps, total)
        return grads, stats, jax.tree.map(lambda x: x.mean(0), scalars)

    def step(state: TrainState, batch: Batch, key: jax.Array):
        # Folding in the step gives a resumed run the same random numbers.
        augment_key, model_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch, num_unreadable = _split_count(batch)
        batch = task.augment(batch, augment_key)
        take = differentiate if accumulation_steps == 1 else accumulate
        grads, stats, scalars = take(state.params, state.stats, batch, model_key)
        norm, rate = optax.tree.norm(grads), schedule(state.step)
        # Finite squares of gradients and weights make finite moments and weights.
        # Checking these themselves would compile AdamW once more for each array.
        checked = (scalars["loss"], norm, rate, optax.tree.norm(state.params), stats)
        is_finite = _is_finite(checked)
        scalars = {
            **scalars,
            "grad_norm": norm,
            "learning_rate": rate,
            "num_unreadable": num_unreadable,
            "skipped": ~is_finite,
        }
        return state.apply(grads, stats, optimizer, is_finite, ema_decay), scalars

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=out_sharding,
        compiler_options=compiler_options(dtype),
    )


def _is_finite(tree: Any) -> jax.Array:
    """Returns whether all numbers in a tree are finite."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def _split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], by interleaving rows.

    So each device holds its share of every part.
    """
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _split_count(batch: Batch) -> tuple[Batch, jax.Array]:
    """Returns the arrays of the task, and the largest `num_unreadable` of any process.

    As a result of the compiled step, the count is the same for every process at the
    same step.
    """
    arrays = dict(batch)
    counts = arrays.pop("num_unreadable", jnp.zeros(1, jnp.int32))
    return arrays, counts.max()


def make_eval_step(
    graphdef: nnx.GraphDef,
    compute: Callable[[nnx.Module, Batch], Batch],
    out_sharding: jax.sharding.Sharding,
    dtype: DTypeLike = "float32",
) -> Callable[[dict[str, Any], dict[str, Any], Batch], Batch]:
    """Returns `step(params, stats, batch)`, compiled; every host gets all outputs.

    They are those of the function, and `num_unreadable` of the batch, the largest of
    all processes.

    Args:
        graphdef: Static half of the model, in inference.
        compute: The task's `evaluate` or `predict`.
        out_sharding: Of all outputs.
        dtype: Type that the model computes in, for the compiler.
    """

    def step(params: dict[str, Any], stats: dict[str, Any], batch: Batch) -> Batch:
        batch, num_unreadable = _split_count(batch)
        outputs = compute(nnx.merge(graphdef, params, stats), batch)
        return {**outputs, "num_unreadable": num_unreadable}

    return jax.jit(
        step, out_shardings=out_sharding, compiler_options=compiler_options(dtype)
    )
