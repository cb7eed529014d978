"""Photographs like ImageNet's, made in seconds from the two of scikit-learn.

Every class is a tint, so that a model can learn them. Sizes, and bytes per image, are
those that matter to a decoder: around 500x375 pixels and 110 KB of JPEG.
"""

import contextlib
import dataclasses
import functools
import io
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from litv2_jax.data.prepare.smaller_images import shrink

TINTS = {
    "red": (230, 40, 40),
    "yellow": (220, 210, 40),
    "green": (40, 200, 60),
    "cyan": (40, 210, 220),
    "blue": (50, 60, 230),
    "magenta": (220, 50, 210),
}
# Width and height as in ImageNet, where most pictures are 500 pixels long.
SIZES = ((500, 375), (500, 333), (500, 400), (480, 360), (640, 480), (400, 300))
TINT_SHARE = 0.3
NOISE = 26
QUALITY = 92


@dataclasses.dataclass
class PhotosConfig(tfds.core.BuilderConfig):
    """Says how many photographs each split has, and how large they are.

    Attributes:
        num_train: Photographs to train on.
        num_validation: Photographs to evaluate on.
        short_side: Most pixels of the shorter side, as of `litv2_jax.prepare
            imagenet2012 --short-side`; 0 leaves them as they are.
    """

    num_train: int = 96
    num_validation: int = 32
    short_side: int = 0


class Photos(tfds.core.GeneratorBasedBuilder):
    """Builder of the data set `photos`, or `photos/large`; any size by a config."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Six tints."}
    BUILDER_CONFIGS: ClassVar = [
        PhotosConfig(name="small"),
        PhotosConfig(name="large", num_train=4096, num_validation=512),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(None, None, 3), encoding_format="jpeg"
                ),
                "label": tfds.features.ClassLabel(names=list(TINTS)),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=features,
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing to download.
        config: Any = self.builder_config
        first = config.num_train
        return {
            "train": self._generate_examples(range(first)),
            "validation": self._generate_examples(
                range(first, first + config.num_validation)
            ),
        }

    def _generate_examples(
        self, numbers: range
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config: Any = self.builder_config
        short_side = config.short_side
        for number in numbers:
            label = number % len(TINTS)
            photo = make_photo(number, label)
            if short_side:
                photo = shrink(photo, short_side)
            yield number, {"image": photo, "label": label}


def prepare(data_dir: str, config: PhotosConfig | None = None) -> None:
    """Writes the data set `photos` below a folder, as array_record."""
    builder = Photos(data_dir=data_dir, file_format="array_record", config=config)
    # What TFDS prints about it is no result.
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()


def make_photo(number: int, label: int) -> bytes:
    """Returns a JPEG file of one class; the same for the same arguments."""
    rng = np.random.default_rng(number)
    scene = _scenes()[rng.integers(2)]
    size = SIZES[rng.integers(len(SIZES))]
    if rng.random() < 0.3:
        size = (size[1], size[0])
    image = _crop(scene, rng).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) * (1 - TINT_SHARE)
    pixels += np.array(list(TINTS.values())[label], np.float32) * TINT_SHARE
    pixels += rng.integers(-NOISE, NOISE, pixels.shape, np.int8, endpoint=True)
    file = io.BytesIO()
    photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    photo.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _crop(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cuts out a large part of a scene, mirrored half of the time."""
    width, height = (round(side * rng.uniform(0.6, 1)) for side in scene.size)
    x = rng.integers(scene.width - width + 1)
    y = rng.integers(scene.height - height + 1)
    image = scene.crop((int(x), int(y), int(x) + width, int(y) + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


@functools.cache
def _scenes() -> list[Image.Image]:
    # Imported here, because only the preparation needs it.
    from sklearn import datasets

    return [Image.fromarray(pixels) for pixels in datasets.load_sample_images().images]
