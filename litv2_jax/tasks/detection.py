"""Object detection: RetinaNet and Mask R-CNN with LITv2 as trained on COCO.

| batch         | shape and type                                                |
|---------------|---------------------------------------------------------------|
| image         | [B, H, W, 3] uint8; float32 after `augment`                   |
| size          | [B, 2] int32, height and width of the image; padding beyond   |
| boxes         | [B, G, 4] float32 in pixels of the image, in training         |
| label         | [B, G] int32, in training                                     |
| is_object     | [B, G] bool, false for padding, in training                   |
| mask_bits, mask_places, row_map, column_map | see `ops.truth.TrueMasks`       |
| original_size | [B, 2] int32, of the file, in evaluation                      |
| record        | [B] int32, number of the image, in evaluation                 |
| valid         | [B] bool, in evaluation                                       |

| outputs       | of `evaluate` and `predict`                                   |
|---------------|---------------------------------------------------------------|
| boxes, scores, labels, count, masks | see `ops.detections.Detections`         |
| record, valid | as in the batch                                               |
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.augment.normalize import normalize_inside
from litv2_jax.data.canvas_batches import eval_batches, train_batches
from litv2_jax.data.canvases import TrainPlan, plan_evaluation, plan_training
from litv2_jax.data.eval_rows import EvalPlan
from litv2_jax.data.sources.detection import DetectionSource, open_detection_source
from litv2_jax.data.transforms.detection import (
    DetectionEvalTransform,
    DetectionTrainTransform,
)
from litv2_jax.metrics.detection import DetectionScores
from litv2_jax.models.family import find_family
from litv2_jax.ops.detections import Detections
from litv2_jax.ops.truth import TrueMasks, Truth
from litv2_jax.settings import ConfigError, parse
from litv2_jax.tasks.detection_pictures import draw_inputs, draw_predictions
from litv2_jax.tasks.detection_settings import (
    DataSettings,
    Settings,
    check,
    check_groups,
)
from litv2_jax.tasks.detection_truth import collect_truth
from litv2_jax.tasks.image_task import ImageTask
from litv2_jax.tasks.task_data import TaskData
from litv2_jax.training.task import Batch

# COCO's, for what is compiled without data.
_MASK_BYTES, _FILE_SIZE = 2**17, (640, 640)


class Detection(ImageTask):
    """The task; its methods are those of `training.task.Task`."""

    best = "box_AP"

    def __init__(
        self, settings: Settings, data: TaskData | None = None, **options: Any
    ):
        """Takes what the task is made of, as `ImageTask` does."""
        super().__init__(settings, data, **options)
        module = find_family(settings.model.name).module
        self._has_masks = hasattr(module, "predict_masks")
        if data and not data.is_only_scored:
            self._check_objects()
            self.num_train_examples = self._train_plan.num_images
            self.steps_per_epoch = self._train_plan.num_batches

    @staticmethod
    def _parse_settings(values: Mapping[str, Any], batch_size: int) -> Settings:
        settings = parse(Settings, values)
        check(settings)
        check_groups(settings.detector, batch_size)
        return settings

    @staticmethod
    def _open(data: DataSettings) -> TaskData:
        train, evaluation = (
            open_detection_source(data.name, split, data.data_dir)
            for split in (data.train_split, data.eval_split)
        )
        return TaskData.join(train, evaluation, data.max_unreadable)

    @classmethod
    def _open_evaluation(
        cls, data: DataSettings, class_names: Sequence[str]
    ) -> TaskData:
        del class_names
        source = open_detection_source(data.name, data.eval_split, data.data_dir)
        return TaskData.score(source, data.max_unreadable)

    def _describe_input(self) -> dict[str, Any]:
        data = self._settings.data
        return {"scale": data.scale, "multiple": data.eval_multiple}

    def _check_objects(self) -> None:
        """Raises ConfigError if there are too many objects, or masks are missing."""
        index, most = self._train.index, self._settings.data.max_objects
        number = int(index.num_objects.argmax())
        if index.num_objects[number] > most:
            raise ConfigError(
                f"Image {index.image_ids[number]} of the training split has "
                f"{index.num_objects[number]} objects, but config.data.max_objects is "
                f"{most}: set it to that number."
            )
        unmasked = int(index.num_unmasked.sum())
        if self._has_masks and unmasked:
            raise ConfigError(
                f"{unmasked} of {index.num_objects.sum()} objects to train on have no "
                f"mask, which {self._settings.model.name} learns: annotate them, or "
                "train a RetinaNet."
            )

    @property
    def _train(self) -> DetectionSource:
        return cast(DetectionSource, self.data.train)

    @property
    def _evaluation(self) -> DetectionSource:
        return cast(DetectionSource, self.data.evaluation)

    @functools.cached_property
    def _train_plan(self) -> TrainPlan:
        data = self._settings.data
        return plan_training(
            self._train.index,
            scale=data.scale,
            canvases=data.canvases,
            empty_images=data.empty_images,
            batch_size=self._batch_size,
            seed=self._seed,
        )

    @functools.cached_property
    def _eval_plan(self) -> EvalPlan:
        data = self._settings.data
        return plan_evaluation(
            self._evaluation.index,
            scale=data.scale,
            multiple=data.eval_multiple,
            batch_size=self._batch_size,
        )

    @functools.cached_property
    def _truth(self) -> dict[str, Any]:
        return collect_truth(self._evaluation, has_masks=self._has_masks)

    @functools.cached_property
    def _mask_bytes(self) -> int:
        """Of the masks of one image, of all that the training split has; 0 for none."""
        if not self._has_masks:
            return 0
        found = int(self._train.index.num_bytes.max()) if self._data else _MASK_BYTES
        return max(found, 1)

    @property
    def _train_transform(self) -> DetectionTrainTransform:
        data = self._settings.data
        return DetectionTrainTransform(
            data.scale,
            data.flip,
            max_objects=data.max_objects,
            num_bytes=self._mask_bytes,
        )

    @functools.cached_property
    def _file_size(self) -> tuple[int, int]:
        """Height and width that every training image fits in, before resizing."""
        if not self._data:
            return _FILE_SIZE
        height, width = self._train.index.sizes.max(0).tolist()
        return height, width

    @property
    def num_eval_batches(self) -> int:
        """Batches of `eval_batches`."""
        return len(self._eval_plan)

    @property
    def num_eval_programs(self) -> int:
        """Different shapes of these batches."""
        return len(set(self._eval_plan.buckets))

    @property
    def _largest(self) -> tuple[int, int]:
        return max(self._settings.data.canvases, key=lambda x: x[0] * x[1])

    def facts(self) -> dict[str, str]:
        """Returns names and sizes of the model and the data."""
        data = self._settings.data
        sizes = f" in {self.num_eval_programs} sizes" if self._data else ""
        return {
            "model": self.describe_model(self._largest),
            "data": f"{data.name}, {self.num_train_examples:,} images to train on, on "
            f"{len(data.canvases)} canvases, {self.num_eval_examples:,} to "
            f"evaluate{sizes}, {len(self.class_names):,} classes",
        }

    def train_batches(self, start_step: int) -> grain.IterDataset:
        """Returns endless batches, each on one canvas."""
        return train_batches(
            self._train,
            self._train_plan,
            self._train_transform,
            start_step=start_step,
            **self.data.loader_options(self._settings.data.num_workers),
        )

    def eval_batches(self) -> grain.IterDataset:
        """Returns the evaluation split, the images of one padded size together."""
        data = self._settings.data
        return eval_batches(
            self._evaluation,
            self._eval_plan,
            DetectionEvalTransform(data.scale),
            **self.data.loader_options(data.num_workers),
        )

    def example_batch(self) -> Batch:
        """Returns a batch for training, of zeros, on the largest canvas."""
        element, rng = {"canvas": self._largest}, np.random.default_rng(0)
        row = self._train_transform.random_map(element, rng)
        return {name: np.stack([x] * self._batch_size) for name, x in row.items()}

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Normalises the images; all that is random was done while loading."""
        del key
        return {**batch, "image": normalize_inside(batch["image"], batch["size"])}

    def loss(
        self, model: Any, batch: Batch, rngs: nnx.Rngs
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the sum of the model's losses, and each of them."""
        detector = self._settings.detector
        truth = Truth(batch["boxes"], batch["label"], batch["is_object"])
        arguments, options = [batch["image"], batch["size"], truth], {}
        if self._has_masks:
            masks = TrueMasks(
                batch["mask_bits"],
                batch["mask_places"],
                batch["row_map"],
                batch["column_map"],
                self._file_size,
            )
            arguments.append(masks)
            options = {
                "num_proposals": detector.num_proposals,
                "num_samples": detector.num_samples,
            }
        losses = model.losses(
            *arguments, rngs=rngs, loss_group_size=detector.loss_group_size, **options
        )
        scalars = {name: value.sum() for name, value in losses.items()}
        return sum(scalars.values(), jnp.zeros(())), scalars

    def evaluate(self, model: Any, batch: Batch) -> Batch:
        """Returns what the model finds; see the table above."""
        images = normalize_inside(batch["image"], batch["size"])
        options = {}
        if self._has_masks:
            options["num_proposals"] = self._settings.detector.num_proposals
        found: Detections = model.detect(
            images, batch["size"], batch["original_size"], **options
        )
        outputs = {k: v for k, v in vars(found).items() if v is not None}
        return {**outputs, "record": batch["record"], "valid": batch["valid"]}

    def predict(self, model: Any, batch: Batch) -> Batch:
        """Returns the same, and spectra."""
        images = normalize_inside(batch["image"], batch["size"])
        spectra = self._measure_spectra(model, images, batch["valid"])
        return {**self.evaluate(model, batch), "spectra": spectra}

    def metric(self) -> DetectionScores:
        """Returns an empty metric of COCO's numbers, such as `box_AP`."""
        return DetectionScores(self._truth, has_masks=self._has_masks)

    def write_scores(self, metric: Any, folder: Path) -> list[Path]:
        """Writes what was found in COCO's result format; see `DetectionScores`."""
        return metric.write(folder)

    def draw_inputs(self, batch: Batch, path: Path) -> None:
        """Draws images as `augment` left them with their boxes."""
        draw_inputs(batch, self.class_names, path)

    def draw(self, batch: Batch, outputs: Batch, path: Path) -> None:
        """Draws truth and predictions side by side."""
        draw_predictions(batch, outputs, self._evaluation, path)
