"""Models that classify or segment images of any size, or find objects in them."""

import functools
from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from litv2_jax.augment.normalize import normalize, normalize_inside
from litv2_jax.class_names import display_names
from litv2_jax.compiler import compiler_options
from litv2_jax.data.buckets import Bucket, find_bucket
from litv2_jax.data.decode import read_image
from litv2_jax.data.transforms import geometry
from litv2_jax.data.transforms.imagenet import center_crop
from litv2_jax.detected_objects import DetectedObject, list_objects
from litv2_jax.models.backbone import find_images_at_once
from litv2_jax.models.family import find_family
from litv2_jax.paths import expand_path
from litv2_jax.pretrained import check_takes_rgb, find_exif_rule, load_described
from litv2_jax.settings import DTYPES, ConfigError
from litv2_jax.weights import save_pretrained

_BATCH_SIZE = 16

# Compiled programs to keep, one for each size of images.
_MAX_PROGRAMS = 8


def predict(
    weights: str | PathLike, images: Iterable[Image.Image]
) -> tuple[list[str], np.ndarray]:
    """Returns the names of the K classes, and the probabilities of each image [N, K].

    Args:
        weights: As for `Predictor`.
        images: RGB, of any size; used one after the other.

    Raises:
        ConfigError: If there is no checkpoint, it is not that of a classifier, or it
            does not say how many heads its model has.
    """
    predictor = Predictor(weights)
    if predictor.task != "classification":
        raise ConfigError(f"{weights} {_describe_task(predictor.task)}.")
    return predictor.class_names, np.stack(list(predictor.classify(images)))


def segment(
    weights: str | PathLike, images: Iterable[Image.Image]
) -> tuple[list[str], list[np.ndarray]]:
    """Returns the names of the K classes, and the class of each pixel [H, W] of images.

    The images are resized and padded as in the evaluation of the model.

    Args:
        weights: As for `Predictor`.
        images: RGB, of any size; used one after the other.

    Raises:
        ConfigError: If there is no checkpoint, it is not that of a segmentation model,
            or it does not say how many heads its model has.
    """
    predictor = Predictor(weights)
    if predictor.task != "segmentation":
        raise ConfigError(f"{weights} {_describe_task(predictor.task)}.")
    return predictor.class_names, [predictor.segment(image) for image in images]


# A file, an image of any mode, or pixels [H, W, 3] in uint8.
ImageLike = str | PathLike | Image.Image | np.ndarray


class Predictor:
    """A model with its weights and the preprocessing that its checkpoint describes.

    Programs are compiled once for each shape, so that one predictor serves many images.

    Attributes:
        model: The model.
        class_names: Names of the K classes.
        task: `classification`, `segmentation` or `detection`.
        exif: What to make of the EXIF orientation of images, as for `decode`.
    """

    def __init__(self, weights: str | PathLike, *, dtype: str = "float32"):
        """Loads a model.

        Args:
            weights: The workdir of a run, whose best checkpoint is taken; a checkpoint;
                a `.pth`, `.pt` or `.safetensors` file; a folder from
                `save_pretrained`; or `published:NAME`, which is downloaded once.
            dtype: Type of the computation, `float32` or `bfloat16`.

        Raises:
            ConfigError: If the type is another, there is no checkpoint, it does not say
                how many heads its model has, or the model is not for RGB images.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; use {' or '.join(DTYPES)}.")
        self.model, description = load_described(weights, dtype=jnp.dtype(dtype))
        compiled = functools.partial(jax.jit, compiler_options=compiler_options(dtype))
        check_takes_rgb(self.model, weights)
        sizes = description["model"]
        self.task = find_family(sizes["name"]).task
        self._description = description
        self._input = description["input"]
        self.exif = find_exif_rule(description)
        names = display_names(description.get("class_names") or [])
        self.class_names = names or [f"class {k}" for k in range(sizes["num_classes"])]
        fast = nnx.view(self.model, images_at_once=find_images_at_once())
        graphdef, self._state = nnx.split(fast)
        self._shapes: set[Any] = set()

        @compiled
        def classify(state, batch):
            return jax.nn.softmax(nnx.merge(graphdef, state)(normalize(batch)))

        # Compiled once for each size after padding.
        @functools.partial(compiled, static_argnames="canvas")
        def segment(state, image, size, new_size, canvas):
            pixels = normalize_inside(image, size)
            return nnx.merge(graphdef, state).predict(pixels, size, new_size, canvas)

        @compiled
        def detect(state, image, size, old_size):
            pixels = normalize_inside(image, size)
            return nnx.merge(graphdef, state).detect(pixels, size, old_size)

        self._classify, self._segment, self._detect = classify, segment, detect

    @classmethod
    def load(cls, weights: str | PathLike, *, dtype: str = "float32") -> "Predictor":
        """Returns a predictor; see the constructor."""
        return cls(weights, dtype=dtype)

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Writes the model, its preprocessing and its classes; see `save_pretrained`.

        Args:
            folder: To create; it may exist if it is empty.

        Raises:
            ConfigError: If there is something in the folder.
        """
        save_pretrained(
            self.model,
            folder,
            class_names=self._description.get("class_names") or [],
            input=self._input,
        )

    def classify(self, images: Iterable[ImageLike]) -> Iterator[np.ndarray]:
        """Yields the probabilities [K] of each image, which are read in batches.

        Args:
            images: Of any size.

        Raises:
            ConfigError: If the model is no classifier, or has no classes.
            FileNotFoundError: If there is no such file.
            ValueError: If an image cannot be read.
        """
        self._check_task("classification")
        if not self.class_names:
            raise ConfigError(
                "This model has no classes (num_classes=0) and returns features: call "
                "create_model(..., num_classes=0, weights=...) instead."
            )
        return self._classify_batches(images)

    def _classify_batches(self, images: Iterable[ImageLike]) -> Iterator[np.ndarray]:
        settings = self._input
        pixels = (
            np.asarray(
                center_crop(self._read(image), settings["image_size"], settings["crop"])
            )
            for image in images
        )
        batch = list(islice(pixels, _BATCH_SIZE))
        # One size of batch, so that one program is compiled.
        size = len(batch)
        while batch:
            filled = np.stack(batch + batch[:1] * (size - len(batch)))
            yield from np.asarray(self._classify(self._state, filled))[: len(batch)]
            batch = list(islice(pixels, size))

    def segment(self, image: ImageLike) -> np.ndarray:
        """Returns the class of each pixel, int32 [H, W].

        Args:
            image: Of any size.

        Raises:
            ConfigError: If the model does not segment.
            FileNotFoundError: If there is no such file.
            ValueError: If the image cannot be read.
        """
        self._check_task("segmentation")
        pixels, *sizes, bucket = self._prepare(image)
        self._limit_programs(bucket, self._segment)
        classes = self._segment(self._state, pixels, *sizes, bucket.label)
        height, width = sizes[1][0]
        return np.asarray(classes)[0, :height, :width]

    def detect(
        self, image: ImageLike, *, threshold: float = 0.3
    ) -> list[DetectedObject]:
        """Returns the objects in an image, the best first, 100 at most.

        Args:
            image: Of any size.
            threshold: Least score; what scores below 0.05 is never found.

        Raises:
            ConfigError: If the model is no detector.
            FileNotFoundError: If there is no such file.
            ValueError: If the image cannot be read, or the threshold is no score.
        """
        self._check_task("detection")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} must be within 0 and 1.")
        pixels, *sizes, bucket = self._prepare(image)
        self._limit_programs(bucket.image, self._detect)
        found = jax.device_get(self._detect(self._state, pixels, *sizes))
        height, width = sizes[1][0].tolist()
        return list_objects(found, self.class_names, (height, width), threshold)

    def _prepare(
        self, image: ImageLike
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Bucket]:
        """Returns an image as a batch on its canvas, its size, the old one, the canvas.

        As the evaluation of segmentation and detection prepares it.
        """
        pixels = np.asarray(self._read(image))
        height, width = pixels.shape[:2]
        size = geometry.keep_ratio_size((height, width), *self._input["scale"])
        bucket = find_bucket(size, (height, width), self._input["multiple"])
        resized = geometry.pad(geometry.resize_image(pixels, size), bucket.image, 0)
        return resized[None], np.array([size]), np.array([(height, width)]), bucket

    def _check_task(self, task: str) -> None:
        if self.task != task:
            raise ConfigError(f"This checkpoint {_describe_task(self.task)}.")

    def _limit_programs(self, shape: Any, compiled: Any) -> None:
        """Forgets the programs of earlier shapes once there are many.

        Otherwise the memory would grow with the number of sizes.
        """
        if shape not in self._shapes and len(self._shapes) == _MAX_PROGRAMS:
            compiled.clear_cache()
            self._shapes.clear()
        self._shapes.add(shape)

    def _read(self, image: ImageLike) -> Image.Image:
        """Returns an image as RGB."""
        if isinstance(image, Image.Image):
            return image if image.mode == "RGB" else image.convert("RGB")
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.shape[2:] != (3,) or image.ndim != 3:
                raise ValueError(
                    f"An array of {image.dtype} with shape {image.shape} is not an "
                    "image: give uint8 of shape (height, width, 3)."
                )
            return Image.fromarray(image)
        return read_image(expand_path(Path(image)), self.exif)


def _describe_task(task: str) -> str:
    """Returns what a checkpoint holds, and what to call for it."""
    return {
        "classification": "holds a classifier: use predict or Predictor.classify",
        "segmentation": "holds a segmentation model: use segment",
        "detection": "holds a detector: use Predictor.detect",
    }[task]
