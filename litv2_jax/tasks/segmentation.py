"""Semantic segmentation: Semantic FPN with LITv2 as trained on ADE20K.

| batch      | shape and type                                                   |
|------------|------------------------------------------------------------------|
| image      | [B, H, W, 3] uint8; float32 after `augment`                      |
| size       | [B, 2] int32, height and width of the image; padding beyond      |
| label      | [B, H, W] uint8, 255 being ignored; in evaluation [B, H', W']    |
| label_size | [B, 2] int32, the same of the label, in evaluation               |
| valid      | [B] bool, in evaluation                                          |
| image_0.5, size_0.5 and so on | the image at other sizes, for `eval.tta`      |

| outputs    | of `evaluate`                                                    |
|------------|------------------------------------------------------------------|
| confusion  | [K, K] int32, pixels of the batch by label and prediction        |
| valid      | [B] bool                                                         |

| outputs    | of `predict`                                                     |
|------------|------------------------------------------------------------------|
| prediction | [B, H', W'] int32, valid within `label_size`                     |
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.augment.normalize import denormalize, normalize_inside
from litv2_jax.data import pipeline
from litv2_jax.data.bucket_batches import eval_batches
from litv2_jax.data.buckets import plan_eval_batches
from litv2_jax.data.eval_rows import EvalPlan
from litv2_jax.data.sources import open_annotated_source
from litv2_jax.data.transforms.geometry import both_sides
from litv2_jax.data.transforms.segmentation import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    check_num_classes,
)
from litv2_jax.metrics.segmentation import SegmentationScores
from litv2_jax.ops.losses import pixel_cross_entropy
from litv2_jax.ops.resize import resize_bilinear
from litv2_jax.pictures import draw_maps
from litv2_jax.settings import parse
from litv2_jax.tasks.image_task import ImageTask
from litv2_jax.tasks.segmentation_settings import DataSettings, Settings, check
from litv2_jax.tasks.segmentation_views import classify_views
from litv2_jax.tasks.task_data import TaskData
from litv2_jax.training.task import Batch

# Rows of the drawings.
_NUM_DRAWN = 6


class Segmentation(ImageTask):
    """The task; its methods are those of `training.task.Task`."""

    best = "mIoU"

    @staticmethod
    def _parse_settings(values: Mapping[str, Any], batch_size: int) -> Settings:
        del batch_size
        settings = parse(Settings, values)
        check(settings)
        return settings

    @staticmethod
    def _open(data: DataSettings) -> TaskData:
        train, evaluation = (
            open_annotated_source(data.name, split, data.data_dir)
            for split in (data.train_split, data.eval_split)
        )
        check_num_classes(len(train.class_names), data.zero_label)
        return TaskData.join(train, evaluation, data.max_unreadable)

    @classmethod
    def _open_evaluation(
        cls, data: DataSettings, class_names: Sequence[str]
    ) -> TaskData:
        del class_names
        source = open_annotated_source(data.name, data.eval_split, data.data_dir)
        check_num_classes(len(source.class_names), data.zero_label)
        return TaskData.score(source, data.max_unreadable)

    def _describe_input(self) -> dict[str, Any]:
        data = self._settings.data
        return {"scale": data.scale, "multiple": data.eval_multiple}

    @functools.cached_property
    def _eval_transform(self) -> SegmentationEvalTransform:
        data = self._settings.data
        return SegmentationEvalTransform(
            data.scale,
            data.zero_label,
            len(self.class_names),
            ratios=self._settings.eval.ratios,
        )

    @property
    def num_eval_batches(self) -> int:
        """Batches of `eval_batches`."""
        return len(self._eval_plan)

    @property
    def num_eval_programs(self) -> int:
        """Different canvases of these batches."""
        return len(set(self._eval_plan.buckets))

    @functools.cached_property
    def _eval_plan(self) -> EvalPlan:
        return plan_eval_batches(
            self.data.evaluation,
            self._eval_transform,
            multiple=self._settings.data.eval_multiple,
            batch_size=self._batch_size,
        )

    def facts(self) -> dict[str, str]:
        """Returns names and sizes of the model and the data."""
        data = self._settings.data
        sizes = f" in {self.num_eval_programs} sizes" if self._data else ""
        return {
            "model": self.describe_model(data.crop_size),
            "data": f"{data.name}, {self.num_train_examples:,} images to train on, "
            f"{self.num_eval_examples:,} to evaluate{sizes}, "
            f"{len(self.class_names):,} classes",
        }

    def train_batches(self, start_step: int) -> grain.IterDataset:
        """Returns endless batches of `image`, `size` and `label`."""
        data = self._settings.data
        transform = SegmentationTrainTransform(
            data.crop_size,
            scale=data.scale,
            ratio=data.ratio,
            max_share=data.max_class_share,
            flip=data.flip,
            distortion=data.distortion,
            zero_label=data.zero_label,
            num_classes=len(self.class_names),
        )
        return pipeline.train_batches(
            self.data.train,
            transform,
            batch_size=self._batch_size,
            seed=self._seed,
            start_step=start_step,
            **self.data.loader_options(data.num_workers),
        )

    def eval_batches(self) -> grain.IterDataset:
        """Returns the evaluation split, the images of one canvas together."""
        return eval_batches(
            self.data.evaluation,
            self._eval_plan,
            self._eval_transform,
            **self.data.loader_options(self._settings.data.num_workers),
        )

    def example_batch(self) -> Batch:
        """Returns a batch for training, of zeros."""
        height, width = both_sides(self._settings.data.crop_size)
        shape = (self._batch_size, height, width)
        return {
            "image": np.zeros((*shape, 3), np.uint8),
            "size": np.tile(np.array([height, width], np.int32), (shape[0], 1)),
            "label": np.zeros(shape, np.uint8),
        }

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Normalises the images; all that is random was done while loading."""
        del key
        images = normalize_inside(batch["image"], batch["size"])
        return {"image": images, "label": batch["label"]}

    def loss(
        self, model: nnx.Module, batch: Batch, rngs: nnx.Rngs
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cross-entropy and the accuracy, both means over all pixels.

        As in mmsegmentation 0.13, ignored pixels add nothing to the loss but count in
        the mean, and are mistakes in the accuracy.
        """
        labels = batch["label"]
        logits = model(batch["image"], rngs=rngs)
        logits = resize_bilinear(logits, labels.shape[1:])
        accuracy = (logits.argmax(-1) == labels).mean()
        return pixel_cross_entropy(logits, labels), {"accuracy": accuracy}

    def evaluate(self, model: Any, batch: Batch) -> Batch:
        """Returns the confusion matrix of the batch; see the table above."""
        labels = batch["label"]
        num_classes = len(self.class_names)
        prediction = self._classify_pixels(model, batch)
        pairs = labels.astype(jnp.int32) * num_classes + prediction
        # Ignored pixels are counted in an extra bin, which is then dropped.
        pairs = jnp.where(labels < num_classes, pairs, num_classes**2)
        # Image by image, so that each device counts only its images.
        count = functools.partial(jnp.bincount, length=num_classes**2 + 1)
        counts = jax.vmap(count)(pairs.reshape(len(pairs), -1)).sum(0)
        return {
            "confusion": counts[:-1].reshape(num_classes, num_classes),
            "valid": batch["valid"],
        }

    def predict(self, model: Any, batch: Batch) -> Batch:
        """Returns the class of each pixel, and spectra."""
        images = normalize_inside(batch["image"], batch["size"])
        return {
            "prediction": self._classify_pixels(model, batch),
            "spectra": self._measure_spectra(model, images, batch["valid"]),
        }

    def _classify_pixels(self, model: Any, batch: Batch) -> jax.Array:
        """Returns the class of each pixel, int32 [B, H', W'], at the label's size."""
        settings = self._settings.eval
        if settings.tta != "none":
            return classify_views(model, batch, settings.ratios)
        return model.predict(
            normalize_inside(batch["image"], batch["size"]),
            batch["size"],
            batch["label_size"],
            batch["label"].shape[1:],
        )

    def metric(self) -> SegmentationScores:
        """Returns an empty metric of `mIoU`, `aAcc` and `mAcc`."""
        return SegmentationScores(self.class_names)

    def draw_inputs(self, batch: Batch, path: Path) -> None:
        """Draws images as `augment` left them beside their labels."""
        images = np.asarray(denormalize(batch["image"]))[:_NUM_DRAWN]
        labels = np.asarray(batch["label"])
        rows = list(zip(images, labels[: len(images)], strict=True))
        draw_maps(rows, ["input", "truth"], self.class_names, path)

    def draw(self, batch: Batch, outputs: Batch, path: Path) -> None:
        """Draws input, truth and prediction side by side."""
        rows = []
        for i in np.flatnonzero(batch["valid"])[:_NUM_DRAWN]:
            height, width = batch["size"][i]
            image = batch["image"][i, :height, :width]
            height, width = batch["label_size"][i]
            truth = batch["label"][i, :height, :width]
            prediction = np.asarray(outputs["prediction"][i, :height, :width])
            rows.append((image, truth, prediction))
        titles = ["input", "truth", "prediction"]
        draw_maps(rows, titles, self.class_names, path)
