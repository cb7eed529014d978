"""Opens data sets that TensorFlow Datasets has prepared, without TensorFlow."""

import os
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

import litv2_jax.data.digits  # noqa: F401 (makes the name known to TFDS)
from litv2_jax.data.tfrecord import TfRecordFiles
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError

# Built here in seconds; other data sets are the user's to prepare.
LOCAL = ("digits",)

_DECODERS = {"image": tfds.decode.SkipDecoding()}


class ImageSource:
    """Records of one split at random: `image` (bytes as stored) and `label`."""

    def __init__(self, name: str, split: str, data_dir: str):
        """Opens the split; makes the data set first if it is one of the project's own.

        Args:
            name: A TFDS name, such as `imagenet2012`.
            split: A TFDS split, such as `train` or `train[:90%]`.
            data_dir: Where TFDS keeps its data sets; "" is where it does by default.

        Raises:
            ConfigError: If there is no such data set or split, it has no images with
                labels, or it is not prepared as array_record or TFRecord, completely.
        """
        builder = _open_builder(name, data_dir)
        file_format = _choose_format(builder, name)
        parts = _find_parts(builder, name, split)
        self._records: Any
        if file_format == "array_record":
            self._records = grain.sources.ArrayRecordDataSource(parts)
        else:
            self._records = TfRecordFiles([(p.filename, p.skip, p.take) for p in parts])
        self._name = f"{name}, split {split}"
        self._parts = parts
        self._ends = np.cumsum([part.take for part in parts])
        self._features = builder.info.features
        self.class_names: list[str] = list(self._features["label"].names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            data = self._records[index]
        # What array_record raises where a file is damaged.
        except RuntimeError as error:
            raise UnreadableImageError(str(error)) from error
        try:
            record = self._features.deserialize_example_np(data, decoders=_DECODERS)
        # Bytes that are no record fail in protobuf or in TFDS, in many ways.
        except Exception as error:
            raise UnreadableImageError(f"it is no record of TFDS: {error}") from error
        return {"image": record["image"], "label": record["label"]}

    def where(self, index: int) -> str:
        """Returns what to call a record in front of a person."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        position = index - int(self._ends[number]) + part.take + part.skip
        return f"{self._name}, record {index} (number {position} of {part.filename})"


def _open_builder(name: str, data_dir: str) -> Any:
    """Returns the builder of a data set that is prepared."""
    options: dict[str, Any] = {"data_dir": os.path.expanduser(data_dir) or None}
    try:
        builder: Any = tfds.builder(name, **options)
        if name in LOCAL and not builder.info.splits:
            builder = tfds.builder(name, file_format="array_record", **options)
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(
            f"config.data.name is {name!r}, which TensorFlow Datasets does not know; "
            "for a tree of image files use 'folder'."
        ) from None
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise ConfigError(
            f"config.data.name is {name}, which has {', '.join(features)}; "
            "classification needs image and label."
        )
    if not builder.info.splits:
        own = "`python -m litv2_jax.prepare imagenet2012` does it from the archives"
        other = (
            f"where TensorFlow is installed, `tfds build {name} "
            "--file_format=array_record` does it"
        )
        raise ConfigError(
            f"{name} is not prepared in {builder.data_dir}: "
            f"{own if name == 'imagenet2012' else other}; then point "
            "config.data.data_dir at the folder that has it."
        )
    return builder


def _choose_format(builder: Any, name: str) -> str:
    """Makes the builder name the files that are best to read; returns their format."""
    formats = {each.value: each for each in builder.info.available_file_formats()}
    for file_format in ("array_record", "tfrecord"):
        if file_format in formats:
            builder.info.set_file_format(
                formats[file_format], override=True, override_if_initialized=True
            )
            return file_format
    raise ConfigError(
        f"{name} is prepared in {builder.data_dir} as {', '.join(formats)}; only "
        "array_record and tfrecord can be read."
    )


def _find_parts(builder: Any, name: str, split: str) -> list[Any]:
    """Returns the files of a split, and which of their records to take."""
    try:
        parts = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        raise ConfigError(
            f"{name} has no split {split!r}; it has {splits} ({error})."
        ) from None
    if not parts:
        raise ConfigError(f"{name} has no records in its split {split!r}.")
    for part in parts:
        if not os.path.exists(part.filename):
            raise ConfigError(
                f"{part.filename} is missing; copy it again from where the others came."
            )
    return parts
