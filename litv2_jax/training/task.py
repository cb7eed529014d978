"""The interface between the training loop and a task."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
from flax import nnx

if TYPE_CHECKING:
    # Benchmarks of the step run on machines that have no Grain.
    import grain

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
        """Returns further results, such as those of each class, as a Markdown table."""
        ...


class Task(Protocol):
    """All that differs between classification, segmentation and detection.

    Attributes:
        num_train_examples: Size of the training split.
        steps_per_epoch: Training batches in an epoch.
        best: Metric that selects the best checkpoint (higher is better).
        description: What a checkpoint says about its model, for those who load it;
            JSON.
    """

    num_train_examples: int
    steps_per_epoch: int
    best: str
    description: dict[str, Any]

    @property
    def num_eval_batches(self) -> int:
        """Batches of `eval_batches`."""
        ...

    @property
    def num_eval_programs(self) -> int:
        """Different shapes of these batches: a program is compiled for each."""
        ...

    def facts(self) -> dict[str, str]:
        """Returns facts about the model and the data, by name, for `--dry-run`."""
        ...

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model."""
        ...

    def train_view(self) -> dict[str, Any]:
        """Returns the attributes that `nnx.view` sets in the model for training."""
        ...

    def train_batches(self, start_step: int) -> "grain.IterDataset":
        """Returns this process's shard of endless batches, from the given one on.

        Beside the task's own arrays, a batch may have `num_unreadable` int32 [B], for
        each row how many records its process has found unreadable so far.
        """
        ...

    def eval_batches(self) -> "grain.IterDataset":
        """Returns this process's shard of finite batches, padded, with `valid`.

        They may have `num_unreadable`, like those of `train_batches`.
        """
        ...

    def example_batch(self) -> Batch:
        """Returns a batch of zeros, as those of `train_batches` of one process."""
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
        """Returns what `metric` adds up, and no more: every host gets all of it."""
        ...

    def predict(self, model: nnx.Module, batch: Batch) -> Batch:
        """Returns what `pictures` needs of a batch; computed for one batch of a run."""
        ...

    def check_unreadable(self, count: int) -> None:
        """Raises ConfigError if a process found too many unreadable records.

        Every process calls it at the same step with the same count, the largest of all
        processes, so that all of them raise or none.
        """
        ...

    def metric(self) -> Metric:
        """Returns an empty metric."""
        ...

    def write_scores(self, metric: Any, folder: Path) -> list[Path]:
        """Writes files about what a metric has added up, if any, and returns them."""
        ...

    def draw_inputs(self, batch: Batch, path: Path) -> None:
        """Draws the examples of a batch that `augment` returned."""
        ...

    def pictures(
        self, batch: Batch, outputs: Batch
    ) -> dict[str, Callable[[Path], None]]:
        """Returns functions that draw a batch and the outputs of `predict` for it.

        By the names of the files, such as `predictions`.
        """
        ...
