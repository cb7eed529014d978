"""The one interface between the training loop and a problem."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
from flax import nnx

Batch = Mapping[str, Any]


class Metric(Protocol):
    """Accumulates evaluation outputs on the host."""

    def add(self, outputs: Batch) -> None:
        """Adds one batch of outputs."""
        ...

    def result(self) -> dict[str, float]:
        """Returns the numbers by name."""
        ...

    def table(self) -> str:
        """Returns what more there is to say, such as of each class, in Markdown."""
        ...


class Task(Protocol):
    """All that differs between classification, segmentation and detection.

    Attributes:
        steps_per_epoch: Training batches in an epoch.
        num_eval_batches: Batches of `eval_batches`.
        best: Name of the result that tells a better checkpoint, larger being better.
        description: What a checkpoint has to say of its model, for those who load it;
            JSON.
    """

    steps_per_epoch: int
    num_eval_batches: int
    best: str
    description: dict[str, Any]

    def facts(self) -> dict[str, str]:
        """Returns what there is to say of the model and the data, by name."""
        ...

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model."""
        ...

    def train_batches(self, start_step: int) -> grain.IterDataset:
        """Returns this process's part of endless batches, from the given one on."""
        ...

    def eval_batches(self) -> grain.IterDataset:
        """Returns this process's part of finite batches, filled up, with `valid`."""
        ...

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns a batch ready for the model; compiled into the step."""
        ...

    def loss(
        self, model: nnx.Module, batch: Batch, rngs: nnx.Rngs
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss and further scalars to log."""
        ...

    def evaluate(self, model: nnx.Module, batch: Batch) -> Batch:
        """Returns arrays for `metric` and `draw`, small ones, which all hosts get."""
        ...

    def metric(self) -> Metric:
        """Returns an empty metric."""
        ...

    def draw_inputs(self, batch: Batch, path: Path) -> None:
        """Draws the examples of a batch that `augment` returned."""
        ...

    def draw(self, batch: Batch, outputs: Batch, path: Path) -> None:
        """Draws some examples of a batch and what the model made of them."""
        ...
