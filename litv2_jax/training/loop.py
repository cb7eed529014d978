"""Trains any task, and picks up where an interrupted run stopped."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from tqdm import tqdm

from litv2_jax.settings import check_batch_size, check_positive
from litv2_jax.training.checkpoint import Checkpoints, load_weights
from litv2_jax.training.devices import Devices
from litv2_jax.training.log import Log, announce
from litv2_jax.training.optimizer import (
    OptimizerSettings,
    create_optimizer,
    create_schedules,
)
from litv2_jax.training.step import (
    TrainState,
    make_eval_step,
    make_train_step,
    split_state,
)
from litv2_jax.training.task import Batch, Task


class TrainingError(RuntimeError):
    """A run that cannot go on; its message says why."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What a recipe says of the run itself, whatever the task.

    Attributes:
        task: Name of the task.
        seed: Of the weights, the order of the data and everything else that is drawn.
        epochs: Length of the run.
        batch_size: Examples per update, over all devices.
        eval_every_epochs: Epochs between evaluations, each of which saves a checkpoint.
        log_every_steps: Updates between the rows of `metrics.jsonl`.
        weights: Checkpoint or run to start from; "" starts from scratch.
        optimizer: See there.
    """

    task: str
    seed: int
    epochs: float
    batch_size: int
    eval_every_epochs: float
    log_every_steps: int
    weights: str
    optimizer: OptimizerSettings

    def check(self, num_devices: int) -> None:
        """Raises ConfigError if a value is impossible."""
        for name in ("epochs", "eval_every_epochs", "log_every_steps"):
            check_positive(getattr(self, name), f"config.{name}")
        check_batch_size(self.batch_size, num_devices, "config.batch_size")
        self.optimizer.check(self.epochs)


def fit(
    task: Task, settings: RunSettings, workdir: Path, devices: Devices | None = None
) -> dict[str, float]:
    """Trains to the end, resuming where the workdir's latest checkpoint stands.

    Args:
        task: The problem.
        settings: The recipe.
        workdir: Gets `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `report/`.
        devices: Where to train; everywhere by default.

    Returns:
        The last evaluation.

    Raises:
        ConfigError: If a checkpoint does not fit the model.
        TrainingError: If the loss is not finite.
    """
    devices = devices or Devices()
    plan = _Plan(task, settings)
    with Checkpoints(
        workdir / "checkpoints", task.best, task.description
    ) as checkpoints:
        state, results = _begin(task, settings, plan, devices, checkpoints)
        start_step = int(state.step)
        if start_step >= plan.num_steps:
            announce(f"The run in {workdir} is finished, at step {start_step}.")
            return results
        with Log(
            workdir,
            start_step=start_step,
            num_steps=plan.num_steps,
            batch_size=settings.batch_size,
            every=settings.log_every_steps,
        ) as log:
            return _train(task, settings, plan, devices, checkpoints, log, state)


def evaluate(task: Task, weights: Path) -> dict[str, float]:
    """Scores the weights of a checkpoint, or the best ones of a run.

    Raises:
        ConfigError: If there is no checkpoint, or it is that of another model.
    """
    devices = Devices()
    model = nnx.eval_shape(lambda: task.build(nnx.Rngs(0)))
    params, stats = devices.replicate(load_weights(weights, *split_state(model)))
    return _Evaluator(task, devices)(params, stats)


class _Plan:
    """The recipe in steps."""

    def __init__(self, task: Task, settings: RunSettings):
        self.num_steps = max(1, round(settings.epochs * task.steps_per_epoch))
        self.eval_every = max(
            1, round(settings.eval_every_epochs * task.steps_per_epoch)
        )
        schedules = create_schedules(
            settings.optimizer,
            batch_size=settings.batch_size,
            steps_per_epoch=task.steps_per_epoch,
            num_steps=self.num_steps,
        )
        self.schedule = schedules[0]
        self.optimizer = create_optimizer(settings.optimizer, schedules)


def _begin(
    task: Task,
    settings: RunSettings,
    plan: _Plan,
    devices: Devices,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state to go on from, on all devices, and its evaluation if any."""

    def create() -> TrainState:
        init_key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        return TrainState.create(task.build(nnx.Rngs(init_key)), plan.optimizer)

    restored = checkpoints.restore(devices.replicate_shapes(jax.eval_shape(create)))
    if restored:
        announce(f"Found a checkpoint of step {int(restored[0].step)}.")
        return restored
    state = create()
    if settings.weights:
        weights = Path(settings.weights)
        params, stats = load_weights(weights, state.params, state.stats)
        state = dataclasses.replace(state, params=params, stats=stats)
    return devices.replicate(state), {}


def _train(
    task: Task,
    settings: RunSettings,
    plan: _Plan,
    devices: Devices,
    checkpoints: Checkpoints,
    log: Log,
    state: TrainState,
) -> dict[str, float]:
    """Runs the steps that are left and returns the last evaluation."""
    graphdef = _graphdef(task, is_training=True)
    train_step = make_train_step(graphdef, task, plan.optimizer, plan.schedule)
    evaluator = _Evaluator(task, devices)
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    key = devices.replicate(key)

    start_step = int(state.step)
    batches = iter(task.train_batches(start_step))
    latest, results = None, {}
    for step in range(start_step + 1, plan.num_steps + 1):
        batch = devices.share_batch(next(batches))
        state, scalars = train_step(state, batch, key)
        # The numbers of the step before are fetched while this one runs.
        if latest:
            _record(log, *latest)
        latest = step, scalars
        if step % plan.eval_every == 0 or step == plan.num_steps:
            _record(log, *latest)
            latest = None
            results = evaluator(state.params, state.stats)
            log.write_evaluation(step, step / task.steps_per_epoch, results)
            checkpoints.save(step, state, results)
    batches.close()
    log.draw(lambda path: task.draw(*evaluator.example, path))
    return results


def _record(log: Log, step: int, scalars: Mapping[str, jax.Array]) -> None:
    """Logs an update.

    Raises:
        TrainingError: If its loss is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(scalars).items()}
    if not math.isfinite(values["loss"]):
        raise TrainingError(
            f"The loss is {values['loss']} at step {step}, at a learning rate of "
            f"{values['learning_rate']:.3g} and a gradient norm of "
            f"{values['grad_norm']:.3g}. The last checkpoint is from before; start "
            "again from it with a lower learning rate."
        )
    log.write_step(step, values)


class _Evaluator:
    """Scores a model on the whole evaluation split, compiled once.

    Attributes:
        example: The first batch and its outputs, to draw.
    """

    def __init__(self, task: Task, devices: Devices):
        self._task = task
        self._devices = devices
        graphdef = _graphdef(task, is_training=False)
        self._step = make_eval_step(graphdef, task, devices.replicated)
        self.example: tuple[Batch, Batch] = ({}, {})

    def __call__(
        self, params: dict[str, Any], stats: dict[str, Any]
    ) -> dict[str, float]:
        """Returns the results of the task's metric."""
        metric = self._task.metric()
        is_first = jax.process_index() == 0
        batches = tqdm(
            self._task.eval_batches(),
            desc="eval",
            unit=" batches",
            total=self._task.num_eval_batches,
            leave=False,
            disable=None if is_first else True,
        )
        for number, batch in enumerate(batches):
            outputs = self._step(params, stats, self._devices.share_batch(batch))
            outputs = jax.device_get(outputs)
            metric.add(outputs)
            if number == 0:
                self.example = batch, outputs
        return metric.result()


def _graphdef(task: Task, *, is_training: bool) -> nnx.GraphDef:
    """Returns the static half of the task's model."""
    model = nnx.eval_shape(lambda: task.build(nnx.Rngs(0)))
    model = nnx.view(
        model,
        deterministic=not is_training,
        use_running_average=not is_training,
        raise_if_not_found=False,
    )
    return nnx.split(model, nnx.Param, nnx.BatchStat)[0]
