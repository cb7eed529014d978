"""What the tasks have in common: one model, one data set, images."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from litv2_jax.data.transforms.geometry import both_sides
from litv2_jax.models.flops import count_flops
from litv2_jax.models.probes import measure_frequencies
from litv2_jax.pictures import draw_spectra
from litv2_jax.settings import ConfigError
from litv2_jax.tasks.task_data import TaskData, find_sizes
from litv2_jax.training.task import Batch

# Stage and block whose frequencies are drawn, the first with attention as published.
_SPECTRA_OF = (3, 1)


class ImageTask(abc.ABC):
    """Plumbing of a task, of which some methods of `training.task.Task`.

    Attributes:
        num_train_examples: Size of the training split.
        num_eval_examples: Size of the evaluation split.
        steps_per_epoch: Training batches in an epoch.
        class_names: What the labels stand for.
        description: What a checkpoint says about its model; JSON.
    """

    def __init__(
        self,
        settings: Any,
        data: TaskData | None = None,
        *,
        batch_size: int,
        seed: int,
    ):
        """Takes what the task is made of.

        Args:
            settings: With the sections `model` and `data`; checked.
            data: The data set; None for a task that only builds models and compiles
                steps, as if for the published data set that the settings name.
            batch_size: Images per batch, over all processes.
            seed: Of the order and the crops of the images.

        Raises:
            ConfigError: If there are no data, and the data set is not a published one.
        """
        self._settings = settings
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        self.class_names: Sequence[str]
        if data:
            self.class_names = data.class_names
            self.num_train_examples = len(data.train)
            self.num_eval_examples = len(data.evaluation)
        else:
            sizes = find_sizes(settings.data.name)
            self.num_train_examples, self.num_eval_examples, num_classes = sizes
            self.class_names = [f"class {k}" for k in range(num_classes)]
        self.steps_per_epoch = self.num_train_examples // batch_size
        self.description = {
            "model": {
                "name": settings.model.name,
                "num_classes": len(self.class_names),
                **settings.model.sizes,
            },
            "input": self._describe_input(),
            "class_names": self.class_names,
        }

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        batch_size: int,
        seed: int,
        with_data: bool = True,
        scored: Sequence[str] | None = None,
    ) -> Self:
        """Returns the task of a recipe, its settings checked and its data opened.

        Args:
            values: The sections of the recipe that are the task's.
            batch_size: Images per batch, over all processes.
            seed: Of the order and the crops of the images.
            with_data: Whether to open the data set.
            scored: Names of the classes of weights that are only to be scored, which
                needs no training split; None for a task that is to be trained.

        Raises:
            ConfigError: If a setting is unknown or impossible, or the data are absent.
        """
        settings = cls._parse_settings(values, batch_size)
        data = None
        if with_data and scored is None:
            data = cls._open(settings.data)
        elif with_data and scored is not None:
            data = cls._open_evaluation(settings.data, scored)
        return cls(settings, data, batch_size=batch_size, seed=seed)

    @staticmethod
    @abc.abstractmethod
    def _parse_settings(values: Mapping[str, Any], batch_size: int) -> Any:
        """Returns the settings of a recipe, checked."""

    @staticmethod
    @abc.abstractmethod
    def _open(data: Any) -> TaskData:
        """Opens the data set that the section `data` names."""

    @classmethod
    @abc.abstractmethod
    def _open_evaluation(cls, data: Any, class_names: Sequence[str]) -> TaskData:
        """Opens the evaluation split, to score weights with these classes."""

    @abc.abstractmethod
    def _describe_input(self) -> dict[str, Any]:
        """Returns how images are prepared for the model, in JSON."""

    @property
    def data(self) -> TaskData:
        """The data set.

        Raises:
            ConfigError: If the task was created without one.
        """
        if self._data is None:
            raise ConfigError("This task was created without its data.")
        return self._data

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model."""
        return self._settings.model.build(rngs, len(self.class_names))

    @abc.abstractmethod
    def draw(self, batch: Batch, outputs: Batch, path: Path) -> None:
        """Draws some examples of a batch and the outputs of `predict` for them."""

    def pictures(
        self, batch: Batch, outputs: Batch
    ) -> dict[str, Callable[[Path], None]]:
        """Returns functions that draw a batch and the outputs of `predict` for it."""
        drawn = {"predictions": functools.partial(self.draw, batch, outputs)}
        if outputs.get("spectra"):
            drawn["frequencies"] = functools.partial(draw_spectra, outputs["spectra"])
        return drawn

    def _measure_spectra(self, model: Any, images: jax.Array, valid: jax.Array):
        """Returns the spectra of Hi-Fi and Lo-Fi where the published models begin.

        Args:
            model: The model.
            images: [B, H, W, 3], normalized.
            valid: bool [B], which rows are images.
        """
        stage, block = _SPECTRA_OF
        if not model.backbone.stages[stage - 1].blocks[block - 1].has_attention:
            return {}
        weights = valid.astype(jnp.float32)
        return measure_frequencies(model.backbone, images, stage, block, weights)

    def write_scores(self, metric: Any, folder: Path) -> list[Path]:
        """Writes files about what a metric has added up, none here; returns them."""
        del metric, folder
        return []

    def train_view(self) -> dict[str, Any]:
        """Returns the attributes that `nnx.view` sets in the model for training."""
        return {"deterministic": False, "use_running_average": False}

    def check_unreadable(self, count: int) -> None:
        """Raises ConfigError if more records are unreadable than the recipe allows."""
        self.data.unreadable.check(count)

    def describe_model(self, image_size: int | tuple[int, int]) -> str:
        """Returns the name of the model and its FLOPs for an image of a size."""
        height, width = both_sides(image_size)
        model = nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))
        flops = count_flops(model, (height, width)).corrected
        return (
            f"{self._settings.model.name}, {flops / 1e9:.4g} GFLOPs for an image of "
            f"{height}x{width}"
        )
