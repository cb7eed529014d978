"""One run: a task with its recipe in steps, and what is compiled for it."""

from typing import Any

import jax
import optax
from flax import nnx

from litv2_jax.models.state import find_dtype, split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.devices import Devices
from litv2_jax.training.groups import ParameterGroups
from litv2_jax.training.optimizer import create_optimizer, create_schedule
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.step import (
    TrainState,
    create_abstract_model,
    create_graphdef,
    make_train_step,
)
from litv2_jax.training.task import Task

# Steps are counted in 32 bits.
_MAX_STEPS = 2**31 - 1


class Run:
    """A task, its recipe and its devices; built once and passed on.

    Attributes:
        task: The problem.
        settings: The recipe.
        devices: Where it is trained.
        num_steps: Steps of the whole run.
        eval_every: Steps between evaluations.
        groups: How each of the parameters is trained.
        schedule: Learning rate by step, of those that no group changes.
        optimizer: From `create_optimizer`.
    """

    def __init__(
        self, task: Task, settings: RunSettings, devices: Devices | None = None
    ):
        """Counts the steps and creates the optimizer.

        Args:
            task: The problem.
            settings: The recipe.
            devices: Where to train; everywhere by default.

        Raises:
            ConfigError: If there is no whole batch, there are too many steps, or a
                parameter group takes no parameter.
        """
        self.task, self.settings = task, settings
        self.devices = devices or Devices()
        num_devices = self.devices.replicated.num_devices
        self.num_steps = _count_steps(task, settings, num_devices)
        self.eval_every = max(
            1, round(settings.eval_every_epochs * task.steps_per_epoch)
        )
        params, _ = split_state(create_abstract_model(task))
        self.groups = ParameterGroups(settings.optimizer.all_groups, params)
        self.schedule = self._create_schedule(1.0)
        self.optimizer = create_optimizer(
            settings.optimizer, self.groups, self._create_schedule
        )

    def _create_schedule(self, factor: float) -> optax.Schedule:
        return create_schedule(
            self.settings.optimizer,
            batch_size=self.settings.batch_size,
            steps_per_epoch=self.task.steps_per_epoch,
            num_steps=self.num_steps,
            factor=factor,
        )

    @property
    def model_name(self) -> str | None:
        """Name of the model, if its task has one."""
        return self.task.description.get("model", {}).get("name")

    def should_evaluate(self, step: int) -> bool:
        """Returns whether an evaluation is due after so many steps."""
        return step > 0 and (step % self.eval_every == 0 or step == self.num_steps)

    def create_state(self) -> TrainState:
        """Returns the state of a run that has not begun, with new weights."""
        init_key = jax.random.fold_in(jax.random.key(self.settings.seed), 0)
        model = self.task.build(nnx.Rngs(init_key))
        return self._begin(*split_state(model))

    def _begin(self, params: Any, stats: Any) -> TrainState:
        return TrainState.begin(
            params, stats, self.optimizer, has_average=bool(self.settings.ema_decay)
        )

    def create_abstract_state(self) -> TrainState:
        """Returns shapes, replicated, for the arrays of `create_state`."""
        params, stats = split_state(create_abstract_model(self.task))
        return self.devices.replicate_shapes(jax.eval_shape(self._begin, params, stats))

    def create_step(self, out_sharding: jax.sharding.Sharding | None) -> Any:
        """Returns the compiled step; see `make_train_step`."""
        return make_train_step(
            create_graphdef(self.task, **self._train_view()),
            self.task,
            self.optimizer,
            self.schedule,
            freeze=self.groups.freeze,
            accumulation_steps=self.settings.accumulation_steps,
            ema_decay=self.settings.ema_decay,
            out_sharding=out_sharding,
            dtype=find_dtype(create_abstract_model(self.task)),
        )

    def describe(self) -> dict[str, Any]:
        """Returns what checkpoints say about the run, in JSON.

        `run` says which images a step stands for, which must not change.
        """
        return {
            **self.task.description,
            "run": {
                "batch_size": self.settings.batch_size,
                "num_train_examples": self.task.num_train_examples,
            },
        }

    def _train_view(self) -> dict[str, Any]:
        """Returns what `nnx.view` gets: what the task says, and then the recipe."""
        view = dict(self.task.train_view())
        if self.settings.freeze_batch_norm:
            view["use_running_average"] = True
        if self.settings.batch_norm_group_size:
            view["batch_norm_group_size"] = self.settings.batch_norm_group_size
        if self.settings.remat != "none":
            view["remat"] = self.settings.remat
        return view


def _count_steps(task: Task, settings: RunSettings, num_devices: int) -> int:
    if task.steps_per_epoch < 1:
        count = task.num_train_examples
        largest = count - count % num_devices
        advice = (
            f"use {largest} or fewer"
            if largest
            else f"give each of the {num_devices} devices one or more, or use fewer"
        )
        raise ConfigError(
            f"config.batch_size is {settings.batch_size}, more than the "
            f"{count} training examples there are: {advice}."
        )
    num_steps = max(1, round(settings.epochs * task.steps_per_epoch))
    if num_steps > _MAX_STEPS:
        raise ConfigError(
            f"config.epochs is {settings.epochs:g}, which makes {num_steps:,} steps; "
            f"there may be {_MAX_STEPS:,}."
        )
    return num_steps
