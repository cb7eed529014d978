"""Evaluates a model on the complete evaluation split."""

import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from litv2_jax.models.state import find_dtype, split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.classes import match_to_data, reorder_classes
from litv2_jax.training.devices import Devices, StopRequest
from litv2_jax.training.log import announce
from litv2_jax.training.step import (
    create_abstract_model,
    create_graphdef,
    make_eval_step,
)
from litv2_jax.training.task import Batch, Metric, Task
from litv2_jax.weights import Loaded, Weights, open_weights


def evaluate(task: Task, weights: Path, folder: Path | None = None) -> dict[str, float]:
    """Evaluates weights, which are named as for `open_weights`; see `score`."""
    return score(task, open_weights(weights), folder)


def score(task: Task, weights: Weights, folder: Path | None = None) -> dict[str, float]:
    """Evaluates weights that have been opened.

    Args:
        task: The problem.
        weights: What to evaluate.
        folder: Where to write what the task writes of its scores; nowhere by default.

    Returns:
        The results of the task's metric, and `images_per_second`, compiling included.

    Raises:
        ConfigError: If the weights are those of another model, or of other classes.
    """
    devices = Devices()
    model = create_abstract_model(task)
    order = match_to_data(weights.description, task.description, str(weights.path))
    loaded = weights.load(model, *split_state(model), head="keep")
    for note in loaded.notes:
        announce(note)
    _check_complete(loaded, weights)
    params, stats = loaded.params, loaded.stats
    if order:
        params, stats = reorder_classes(create_graphdef(task), params, stats, order)
    params, stats = devices.replicate((params, stats))
    start = time.perf_counter()
    evaluator = Evaluator(task, devices)
    results = evaluator(params, stats)
    seconds = time.perf_counter() - start
    if evaluator.table:
        announce(evaluator.table)
    if folder and jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for written in evaluator.write_scores(folder):
            announce(f"Wrote {written}.")
    return {**results, "images_per_second": results["num_images"] / seconds}


def _check_complete(loaded: Loaded, weights: Weights) -> None:
    """Raises ConfigError if some of the weights to score would be new."""
    if loaded.new:
        raise ConfigError(
            f"{weights.path} is of another kind of model, so that there is nothing to "
            f"score: its {', '.join(loaded.new[:3])} would be new."
        )


class Evaluator:
    """Evaluates a model on the complete evaluation split.

    Compiles a program for each shape of a batch, and at most one more for `predict`.

    Attributes:
        table: The metric's table for the last evaluation, in Markdown.
    """

    def __init__(self, task: Task, devices: Devices):
        self._task = task
        self._devices = devices
        graphdef = create_graphdef(task)
        dtype = find_dtype(create_abstract_model(task))
        self._evaluate, self._predict = (
            make_eval_step(graphdef, compute, devices.replicated, dtype)
            for compute in (task.evaluate, task.predict)
        )
        self._first_batch: Batch = {}
        self._metric: Metric | None = None
        self.table = ""

    def __call__(
        self,
        params: dict[str, Any],
        stats: dict[str, Any],
        stop: StopRequest | None = None,
    ) -> dict[str, float]:
        """Returns the results of the task's metric; none if asked to stop meanwhile."""
        with contextlib.closing(self._load()) as batches:
            return self._score(params, stats, batches, stop)

    def _score(
        self,
        params: dict[str, Any],
        stats: dict[str, Any],
        loaded: Iterator[Batch],
        stop: StopRequest | None,
    ) -> dict[str, float]:
        metric = self._task.metric()
        is_first = jax.process_index() == 0
        batches = tqdm(
            self._devices.shard_ahead(loaded),
            desc="eval",
            unit=" batches",
            total=self._task.num_eval_batches,
            leave=False,
            disable=None if is_first else True,
        )
        latest = None
        for batch in batches:
            if stop and stop.is_received:
                batches.close()
                return {}
            outputs = self._evaluate(params, stats, batch)
            # The outputs of the previous batch are fetched while this one is computed.
            if latest:
                self._add(metric, latest)
            latest = outputs
        if latest:
            self._add(metric, latest)
        results = metric.result()
        self._metric, self.table = metric, metric.table()
        return results

    def write_scores(self, folder: Path) -> list[Path]:
        """Writes the task's files about the last evaluation, if any; returns them."""
        if self._metric is None:
            return []
        return self._task.write_scores(self._metric, folder)

    def predict(
        self, params: dict[str, Any], stats: dict[str, Any]
    ) -> tuple[Batch, Batch]:
        """Returns the first batch of the last evaluation and its predictions.

        Every process has to call it; the batch is the shard of this one.
        """
        batch = self._devices.shard_batch(self._first_batch)
        return self._first_batch, jax.device_get(self._predict(params, stats, batch))

    def _load(self) -> Generator[Batch, None, None]:
        """Yields the batches, and keeps the first one; ends the workers when closed."""
        with contextlib.closing(iter(self._task.eval_batches())) as batches:
            for number, batch in enumerate(batches):
                if number == 0:
                    self._first_batch = batch
                yield batch

    def _add(self, metric: Metric, outputs: Batch) -> None:
        outputs = dict(jax.device_get(outputs))
        self._task.check_unreadable(int(outputs.pop("num_unreadable")))
        metric.add(outputs)
