"""Prepares imagenet2012 from the archives of image-net.org, without TensorFlow.

The data set is that of TFDS: the same records in the same order. What its own builder
needs TensorFlow for is done by tarfile and Pillow instead. With smaller training images
it is another one, of another name, which says what they are.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.imagenet2012 import (
    imagenet2012_dataset_builder as official,
)

from litv2_jax.data.prepare.smaller_images import QUALITY, shrink_all
from litv2_jax.data.smaller_names import name_smaller
from litv2_jax.settings import ConfigError, Range

_TRAIN, _VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
# Images that are not JPEG in three colours, which TFDS makes them.
_ODD_IMAGES = {*official.CMYK_IMAGES, *official.PNG_IMAGES}
_COUNTS = {"train": 1_281_167, "validation": 50_000}
# Below, crops of a few percent of the area would have hardly any pixels.
_SHORT_SIDE = Range(64, 4096)


def prepare_imagenet(
    archives: Path, data_dir: str, *, allow_partial: bool, short_side: int = 0
) -> dict[str, int]:
    """Writes imagenet2012 as array_record and returns the size of each split.

    Args:
        archives: Folder with both archives, as they were downloaded.
        data_dir: Where TFDS keeps its data sets; "" is where it does by default. On its
            disk there must be room for the images twice, 300 GB.
        allow_partial: Whether images, classes or one archive may be missing.
        short_side: Most pixels of the shorter side of training images, which makes the
            data set `imagenet2012_short400` (for 400); 0 leaves them as they are.

    Raises:
        ConfigError: If an archive is missing, cut short or not the one expected, the
            data set is prepared already, or the side is too small.
    """
    if short_side:
        _SHORT_SIDE.apply(short_side, "--short-side")
    names = [name for name in (_TRAIN, _VALIDATION) if (archives / name).exists()]
    if not names or (len(names) < 2 and not allow_partial):
        raise ConfigError(
            f"{archives} does not have {_TRAIN} and {_VALIDATION}; download them from "
            "https://image-net.org/download-images."
        )
    builder = Imagenet2012(
        archives,
        allow_partial=allow_partial,
        short_side=short_side,
        data_dir=data_dir or None,
        file_format="array_record",
    )
    if builder.info.splits:
        raise ConfigError(
            f"{builder.name} is prepared already in {builder.data_dir}; remove that "
            "folder to prepare it again."
        )
    try:
        builder.download_and_prepare()
    except tarfile.TarError as error:
        raise ConfigError(
            f"An archive in {archives} is damaged or cut short ({error}); compare its "
            "checksum with the one on image-net.org."
        ) from None
    return {name: split.num_examples for name, split in builder.info.splits.items()}


class Imagenet2012(official.Builder, skip_registration=True):
    """The builder of TFDS, which reads its archives by other means."""

    name = "imagenet2012"
    pkg_dir_path = tfds.core.Path(official.__file__).parent

    def __init__(
        self, archives: Path, *, allow_partial: bool, short_side: int, **options: Any
    ):
        """Creates the builder.

        Args:
            archives: Folder with the archives.
            allow_partial: Whether images may be missing.
            short_side: As for `prepare_imagenet`.
            **options: Those of every builder.
        """
        self._archives = archives
        self._allow_partial = allow_partial
        self._short_side = short_side
        if short_side:
            self.name = name_smaller(self.name, short_side)  # pyright: ignore
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        if self._short_side:
            info.as_proto.description = (
                "ImageNet 2012 with smaller training images: those whose shorter side "
                f"has more than {self._short_side} pixels are resized to that (bicubic "
                f"with antialiasing) and written as JPEG of quality {QUALITY}; all "
                "others, and the validation images, are as published."
            )
        return info

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing to download.
        splits = {"train": (_TRAIN, _read_train), "validation": (_VALIDATION, _read)}
        return {
            split: self._generate_examples(split, read(self._archives / archive))
            for split, (archive, read) in splits.items()
            if (self._archives / archive).exists()
        }

    def _generate_examples(
        self, split: str, images: Iterator[tuple[str, bytes]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        path = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
        validation_labels = path.read_text().split()
        features: Any = self.info.features
        class_names = set(features["label"].names)
        count = 0
        if self._short_side and split == "train":
            images = shrink_all(images, self._short_side)
        for name, data in images:
            # n01440764_18.JPEG or ILSVRC2012_val_00000001.JPEG, whose label is listed.
            label, _, number = Path(name).stem.rpartition("_")
            if label == "ILSVRC2012_val" and number.isdigit():
                label = validation_labels[int(number) - 1]
            if label not in class_names:
                raise ConfigError(
                    f"The archive of {split} in {self._archives} has {name}, which is "
                    "no image of ImageNet 2012; download it again."
                )
            yield name, {"file_name": name, "image": data, "label": label}
            count += 1
        if count != _COUNTS[split] and not self._allow_partial:
            raise ConfigError(
                f"The archive of {split} in {self._archives} has {count} images, not "
                f"{_COUNTS[split]}; download it again, or add --allow-partial."
            )


def _read_train(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the images of an archive of archives, one for each class."""
    with tarfile.open(archive, "r|") as classes:
        for entry in classes:
            if entry.isfile():
                with tarfile.open(
                    fileobj=classes.extractfile(entry), mode="r|"
                ) as images:
                    yield from _read_entries(images)


def _read(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r|") as images:
        yield from _read_entries(images)


def _read_entries(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for entry in archive:
        if entry.isfile():
            file = archive.extractfile(entry)
            assert file is not None  # It is, for what is no file.
            name, data = Path(entry.name).name, file.read()
            yield name, _to_rgb_jpeg(data) if name in _ODD_IMAGES else data


def _to_rgb_jpeg(data: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(file, "JPEG", quality=100)
    return file.getvalue()
