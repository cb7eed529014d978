"""Describes a run without training: steps, memory and time."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from litv2_jax.training.begin import load_weights
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.step import TrainState
from litv2_jax.training.task import Batch, Task
from litv2_jax.weights import explain_download, open_weights

# Steps to time, after the first.
_NUM_TIMED = 3


def describe_run(
    task: Task, settings: RunSettings, note: str = "", *, with_data: bool = True
) -> str:
    """Returns a page of facts; compiles the step and times it, writing nothing.

    Args:
        task: The task to train.
        settings: The recipe.
        note: Sentence on what else a run would do.
        with_data: Whether the task has its data.

    Raises:
        ConfigError: If the weights to start from are missing or do not fit.
    """
    run = Run(task, settings)
    devices, state = run.devices, run.create_state()
    notes = {"first": note} if note else {}
    if settings.weights:
        notes["weights"] = _describe_weights(run, state)
    state = devices.replicate(state)
    key = devices.replicate(jax.random.key(0))
    batch = devices.shard_batch(
        _load_batch(task) if with_data else task.example_batch()
    )
    num_parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    step = run.create_step(devices.replicated).lower(state, batch, key).compile()
    memory: Any = step.memory_analysis()
    seconds = _time_steps(step, state, batch, key)
    warmup = int(settings.optimizer.warmup_epochs * task.steps_per_epoch)
    facts = {
        **notes,
        **task.facts(),
        "parameters": f"{num_parameters:,}",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"{jax.process_count()} processes",
        "steps": f"{run.num_steps:,}, {task.steps_per_epoch:,} to an epoch of "
        f"batches of {settings.batch_size:,}",
        "learning rate": ", ".join(
            f"{np.asarray(run.schedule(at)):.3g} at step {at:,}"
            for at in sorted({0, warmup, run.num_steps // 2, run.num_steps})
        ),
        "groups": "; ".join(run.groups.describe()),
        **({"programs": _count_programs(task)} if with_data else {}),
        "memory": f"{_gibibytes(memory)} on each device, as compiled",
        "time": f"{seconds:.3g} s for a step (median of {_NUM_TIMED}, the data not "
        f"counted), {settings.batch_size / seconds:,.0f} images/s, "
        f"{run.num_steps * seconds / 3600:,.3g} hours in all",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def _describe_weights(run: Run, state: TrainState) -> str:
    """Returns what a run would begin with; nothing is downloaded."""
    weights, model = run.settings.weights, run.model_name
    if note := explain_download(weights, model=model):
        return f"{weights} {note}"
    loaded = load_weights(run, state, open_weights(weights, model=model))
    return " ".join([weights, *loaded.notes])


def _load_batch(task: Task) -> Batch:
    with contextlib.closing(iter(task.train_batches(0))) as batches:
        return next(batches)


def _count_programs(task: Task) -> str:
    return f"1 to train, {task.num_eval_programs} to evaluate, 1 to draw"


def _time_steps(step: Callable, state, batch, key) -> float:
    """Returns the median seconds of a step, whose results are discarded."""
    times = []
    for _ in range(1 + _NUM_TIMED):
        start = time.perf_counter()
        state, scalars = step(state, batch, key)
        jax.block_until_ready(scalars)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _gibibytes(memory: Any) -> str:
    """Returns arguments and temporaries; results reuse the memory of the arguments."""
    if memory is None:  # Not every platform reports it.
        return "unknown"
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return f"{total / 2**30:.3g} GiB"
