"""Image classification: LITv2 as trained on ImageNet.

| batch    | shape and type                                   |
|----------|--------------------------------------------------|
| image    | [B, S, S, 3] uint8; float32 after `augment`      |
| label    | [B] int32; [B, K] in evaluation by ReaL          |
| target   | [B, K] float32, after `augment`                  |
| valid    | [B] bool, in evaluation                          |

| outputs     | of `evaluate`                                 |
|-------------|-----------------------------------------------|
| top1, top5  | [B] bool, whether the label is among them     |
| loss        | [B] float32, cross-entropy                    |
| label       | [B] int32                                     |
| prediction  | [B] int32, the most probable class            |
| valid       | [B] bool                                      |

| outputs     | of `predict`                                  |
|-------------|-----------------------------------------------|
| probability | [B, K] float32                                |
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from litv2_jax.augment.erasing import erase
from litv2_jax.augment.mixing import mix_batch, smooth_labels
from litv2_jax.augment.normalize import denormalize, normalize
from litv2_jax.augment.randaugment import rand_augment
from litv2_jax.data import pipeline
from litv2_jax.data.sources import open_evaluation, open_splits
from litv2_jax.data.transforms.geometry import both_sides
from litv2_jax.data.transforms.imagenet import EvalTransform, TrainTransform
from litv2_jax.metrics.accuracy import Accuracy
from litv2_jax.ops.ranking import choose_labels, rank_labels
from litv2_jax.pictures import draw_confusion, draw_grid, draw_or_warn
from litv2_jax.settings import parse
from litv2_jax.tasks.classification_settings import (
    DataSettings,
    Settings,
    check,
    check_mix_group_size,
)
from litv2_jax.tasks.image_task import ImageTask
from litv2_jax.tasks.task_data import TaskData
from litv2_jax.training.task import Batch

# Of the picture of confusions.
_MAX_DRAWN_CLASSES = 50


class Classification(ImageTask):
    """The task; its methods are those of `training.task.Task`."""

    best = "top1"
    num_eval_programs = 1

    @staticmethod
    def _parse_settings(values: Mapping[str, Any], batch_size: int) -> Settings:
        settings = parse(Settings, values)
        check(settings)
        check_mix_group_size(settings.augment, batch_size)
        return settings

    @staticmethod
    def _open(data: DataSettings) -> TaskData:
        train, evaluation = open_splits(
            data.name,
            data.train_split,
            data.eval_split,
            data.data_dir,
            data.eval_fraction,
        )
        return TaskData.join(train, evaluation, data.max_unreadable)

    @classmethod
    def _open_evaluation(
        cls, data: DataSettings, class_names: Sequence[str]
    ) -> TaskData:
        evaluation = open_evaluation(
            data.name, data.eval_split, data.data_dir, class_names
        )
        return TaskData.score(evaluation, data.max_unreadable)

    def _describe_input(self) -> dict[str, Any]:
        data = self._settings.data
        return {
            "image_size": data.image_size,
            "crop": data.eval_crop,
            "exif": data.exif,
        }

    @property
    def num_eval_batches(self) -> int:
        """Batches of `eval_batches`."""
        return -(-self.num_eval_examples // self._batch_size)

    def facts(self) -> dict[str, str]:
        """Returns names and sizes of the model and the data."""
        data = self._settings.data
        return {
            "model": self.describe_model(data.image_size),
            "data": f"{data.name}, {self.num_train_examples:,} images to train on, "
            f"{self.num_eval_examples:,} to evaluate, {len(self.class_names):,} "
            "classes",
            "RandAugment": self._settings.augment.describe_rand_augment(),
        }

    def train_batches(self, start_step: int) -> grain.IterDataset:
        """Returns endless batches of `image` and `label`."""
        data = self._settings.data
        transform = TrainTransform(
            data.image_size,
            scale=data.scale,
            ratio=data.ratio,
            flip=data.flip,
            exif=data.exif,
            rand_augment=self._settings.augment.rand_augment_on_host(),
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
        """Returns the evaluation split in batches of `image`, `label` and `valid`."""
        data = self._settings.data
        transform = EvalTransform(data.image_size, data.eval_crop, data.exif)
        return pipeline.eval_batches(
            self.data.evaluation,
            transform,
            batch_size=self._batch_size,
            **self.data.loader_options(data.num_workers),
        )

    def example_batch(self) -> Batch:
        """Returns a batch for training, of zeros."""
        height, width = both_sides(self._settings.data.image_size)
        return {
            "image": np.zeros((self._batch_size, height, width, 3), np.uint8),
            "label": np.zeros(self._batch_size, np.int32),
        }

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Augments images one by one, smooths the labels and mixes."""
        settings = self._settings.augment
        rand_key, erase_key, mix_key = jax.random.split(key, 3)
        images = batch["image"]
        if settings.randaugment_layers and settings.randaugment_on == "device":
            images = rand_augment(
                images,
                rand_key,
                magnitude=settings.randaugment_magnitude,
                magnitude_std=settings.randaugment_std,
                num_layers=settings.randaugment_layers,
            )
        images = normalize(images)
        if settings.erasing:
            images = erase(images, erase_key, probability=settings.erasing)
        targets = smooth_labels(
            batch["label"], len(self.class_names), settings.label_smoothing
        )
        images, targets = mix_batch(
            images,
            targets,
            mix_key,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            switch=settings.mixup_switch,
            group_size=settings.mix_group_size,
        )
        return {"image": images, "target": targets}

    def loss(
        self, model: nnx.Module, batch: Batch, rngs: nnx.Rngs
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cross-entropy with the targets, and the accuracy."""
        logits = model(batch["image"], rngs=rngs)
        loss = optax.softmax_cross_entropy(logits, batch["target"]).mean()
        # For mixed images, the class with the larger weight counts as correct.
        hits = logits.argmax(-1) == batch["target"].argmax(-1)
        return loss, {"accuracy": hits.mean()}

    def evaluate(self, model: Any, batch: Batch) -> Batch:
        """Returns hits and loss of each image; see the table above."""
        logits = self._average_views(model, batch)
        labels, is_labeled = choose_labels(logits, batch["label"])
        rank = rank_labels(logits, labels)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return {
            "top1": rank < 1,
            "top5": rank < 5,
            "loss": loss,
            "label": labels,
            "prediction": logits.argmax(-1).astype(labels.dtype),
            "valid": batch["valid"] & is_labeled,
        }

    def predict(self, model: Any, batch: Batch) -> Batch:
        """Returns the probabilities of the classes, and spectra."""
        images = normalize(batch["image"])
        return {
            "probability": jax.nn.softmax(self._average_views(model, batch)),
            "spectra": self._measure_spectra(model, images, batch["valid"]),
        }

    def _average_views(self, model: Any, batch: Batch) -> jax.Array:
        """Returns logits [B, K], averaged with those of mirror images for `flip`.

        The mean is that of logits, as in timm's oversampling (`--tta`).
        """
        images = normalize(batch["image"])
        logits = model(images)
        if self._settings.eval.tta == "flip":
            logits = (logits + model(jnp.flip(images, axis=2))) / 2
        return logits

    def metric(self) -> Accuracy:
        """Returns an empty metric of `top1`, `top5` and `loss`."""
        return Accuracy(self.class_names)

    def write_scores(self, metric: Any, folder: Path) -> list[Path]:
        """Writes `classes.csv`, `confusion.csv` and, of few classes, a PNG of that."""
        confusion = metric.confusion
        written = confusion.write(folder)
        if len(self.class_names) <= _MAX_DRAWN_CLASSES:
            path = folder / "confusion.png"
            names = self.class_names
            draw = functools.partial(draw_confusion, confusion.pairs, names, path)
            written += [path] if draw_or_warn(draw, path) else []
        return written

    def draw_inputs(self, batch: Batch, path: Path) -> None:
        """Draws images as `augment` left them, with the larger shares of the target."""
        images = np.asarray(denormalize(batch["image"]))
        captions = []
        for target in np.asarray(batch["target"]):
            best = [k for k in np.argsort(-target)[:2] if target[k] > 0.1]
            captions.append(
                ", ".join(f"{self.class_names[k]} ({target[k]:.0%})" for k in best)
            )
        draw_grid(list(images), captions, ["black"] * len(images), path)

    def draw(self, batch: Batch, outputs: Batch, path: Path) -> None:
        """Draws up to 32 images with what they are taken for, mistakes in red."""
        count = min(32, int(np.sum(batch["valid"])))
        probability = np.asarray(outputs["probability"])[:count]
        labels = np.asarray(batch["label"])[:count]
        found = probability.argmax(-1)
        captions = []
        for i in range(count):
            name = self.class_names[found[i]]
            captions.append(f"{name} ({probability[i, found[i]]:.0%})")
            if found[i] != labels[i]:
                captions[-1] += f", is {self.class_names[labels[i]]}"
        colors = np.where(found == labels, "black", "red").tolist()
        draw_grid(list(batch["image"][:count]), captions, colors, path)
