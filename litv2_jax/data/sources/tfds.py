"""Opens data sets that TensorFlow Datasets has prepared, without TensorFlow."""

import os
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

# Imported to make their names known to TFDS.
import litv2_jax.data.prepare.ade20k
import litv2_jax.data.prepare.digits
import litv2_jax.data.prepare.shapes  # noqa: F401
from litv2_jax.data.smaller_names import find_original
from litv2_jax.data.sources.tfrecord import TfRecordFiles
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError, show

# Built on first use, in seconds; users prepare the other data sets.
LOCAL = ("digits", "shapes")

# The data set whose images have any number of labels, and its feature with these.
REAL, REAL_LABEL = "imagenet2012_real", "real_label"

# What prepares those that `litv2_jax.prepare` can.
_PREPARED_FROM = {
    "ade20k": "the folders of ADEChallengeData2016",
    "imagenet2012": "the archives",
}


class TfdsSource:
    """Records of one split by index, of which some features are read."""

    def __init__(
        self, name: str, split: str, data_dir: str, *, needed: list[str], purpose: str
    ):
        """Opens the split; first builds the data set if it is one of LOCAL.

        Args:
            name: A TFDS name, such as `imagenet2012`.
            split: A TFDS split, such as `train` or `train[:90%]`.
            data_dir: Folder of TFDS's data sets; "" is the default of TFDS.
            needed: Features to read; images among them stay encoded.
            purpose: What needs these, for the error if they are missing.

        Raises:
            ConfigError: If there is no such data set or split, it lacks a feature, or
                it is not completely prepared as array_record or TFRecord.
        """
        builder = _open_builder(name, data_dir)
        _check_features(builder, name, needed, purpose)
        _check_prepared(builder, name)
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
        self._features: Any = tfds.features.FeaturesDict(
            {feature: builder.info.features[feature] for feature in needed}
        )
        self._decoders = {
            feature: tfds.decode.SkipDecoding()
            for feature in needed
            if isinstance(self._features[feature], tfds.features.Image)
        }

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            data = self._records[index]
        # array_record raises it for damaged files.
        except RuntimeError as error:
            raise UnreadableImageError(str(error)) from error
        try:
            record = self._features.deserialize_example_np(
                data, decoders=self._decoders
            )
            return {name: record[name] for name in self._features}
        # Damaged records raise many errors in protobuf or TFDS.
        except Exception as error:
            raise UnreadableImageError(f"it is no record of TFDS: {error}") from error

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        position = index - int(self._ends[number]) + part.take + part.skip
        return f"{self._name}, record {index} (number {position} of {part.filename})"


class ImageSource(TfdsSource):
    """Records of one split by index: `image` (bytes as stored) and `label`."""

    def __init__(self, name: str, split: str, data_dir: str):
        """Opens the split, as `TfdsSource` does."""
        super().__init__(
            name, split, data_dir, needed=["image", "label"], purpose="classification"
        )
        self.class_names = _find_class_names(self._features["label"], name, "label")

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index)
        label, count = int(record["label"]), len(self.class_names)
        # Test splits without labels have -1, which would train as all-zero targets.
        if not 0 <= label < count:
            raise UnreadableImageError(
                f"its label is {label}, but the classes are 0 to {count - 1}"
            )
        return record


class RealImageSource(TfdsSource):
    """Records of ImageNet with all labels that an image has (arXiv:2006.07159).

    `label` is int32 [K], 1 for each class that is in the image; some have none.
    """

    def __init__(self, name: str, split: str, data_dir: str):
        """Opens the split, as `TfdsSource` does."""
        super().__init__(
            name, split, data_dir, needed=["image", REAL_LABEL], purpose="ReaL"
        )
        classes = self._features[REAL_LABEL].feature
        self.class_names = _find_class_names(classes, name, "label")

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index)
        label = np.zeros(len(self.class_names), np.int32)
        label[record[REAL_LABEL]] = 1
        return {"image": record["image"], "label": label}


class AnnotatedImageSource(TfdsSource):
    """Records of one split by index: `image` and `annotation`, as they are stored."""

    def __init__(self, name: str, split: str, data_dir: str):
        """Opens the split, as `TfdsSource` does.

        Raises:
            ConfigError: Also if the data set does not name its classes.
        """
        super().__init__(
            name,
            split,
            data_dir,
            needed=["image", "annotation"],
            purpose="segmentation",
        )
        annotation = self._features["annotation"]
        self.class_names = _find_class_names(annotation, name, "annotation")


def _find_class_names(feature: Any, name: str, purpose: str) -> list[str]:
    """Returns the names of the classes that a feature has.

    Raises:
        ConfigError: If it does not name them.
    """
    if not getattr(feature, "num_classes", None):
        kinds = {"label": "ClassLabel", "annotation": "LabeledImage"}
        raise ConfigError(
            f"config.data.name is {name}, whose {purpose} does not name its classes; "
            f"prepare it with tfds.features.{kinds[purpose]}."
        )
    return list(feature.names)


def find_unprepared(name: str, data_dir: str) -> str | None:
    """Returns the folder in which opening a data set would prepare it.

    None means that it would not be prepared.

    Args:
        name: As for `TfdsSource`.
        data_dir: As for `TfdsSource`.
    """
    if name not in LOCAL:
        return None
    builder = _find_builder(name, data_dir)
    return None if builder.info.splits else str(builder.data_dir)


def _open_builder(name: str, data_dir: str) -> Any:
    """Returns the builder of a data set, which is first built if it is in LOCAL."""
    builder = _find_builder(name, data_dir)
    if name in LOCAL and not builder.info.splits:
        builder = _find_builder(name, data_dir, file_format="array_record")
        try:
            builder.download_and_prepare()
        except OSError as error:
            raise ConfigError(
                f"{name} cannot be prepared in {builder.data_dir} ({error.strerror}): "
                "point config.data.data_dir at a folder that can be written to."
            ) from None
    return builder


def _find_builder(name: str, data_dir: str, **options: Any) -> Any:
    """Returns the builder of a data set; nothing is written.

    Raises:
        ConfigError: If there is no such data set.
    """
    place = str(expand_path(data_dir)) if data_dir else None
    try:
        return tfds.builder(name, data_dir=place, **options)
    except tfds.core.DatasetNotFoundError:
        if original := find_original(name):
            base, side = original
            raise ConfigError(
                f"config.data.name is {name}, which is not prepared in "
                f"{place or 'the folder of TFDS'}: `python -m litv2_jax.prepare {base} "
                f"--short-side {side}` does it from the archives; then point "
                "config.data.data_dir at the folder that has it."
            ) from None
        raise ConfigError(
            f"config.data.name is {show(name)}, which TensorFlow Datasets does not "
            "know; for a tree of image files use 'folder'."
        ) from None
    # Many errors, for an invalid name or another version.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")[:200]
        raise ConfigError(
            f"config.data.name is {show(name)}, which TensorFlow Datasets cannot open "
            f"({reason}); for a tree of image files use 'folder'."
        ) from None


def _check_features(builder: Any, name: str, needed: list[str], purpose: str) -> None:
    features = builder.info.features
    if not all(feature in features for feature in needed):
        raise ConfigError(
            f"config.data.name is {name}, which has {', '.join(features)}; "
            f"{purpose} needs {' and '.join(needed)}."
        )


def _check_prepared(builder: Any, name: str) -> None:
    if builder.info.splits:
        return
    if name in _PREPARED_FROM:
        how = (
            f"`python -m litv2_jax.prepare {name}` does it from {_PREPARED_FROM[name]}"
        )
    else:
        how = (
            f"where TensorFlow is installed, `tfds build {name} "
            "--file_format=array_record` does it"
        )
    raise ConfigError(
        f"{name} is not prepared in {builder.data_dir}: {how}; then point "
        "config.data.data_dir at the folder that has it."
    )


def _choose_format(builder: Any, name: str) -> str:
    """Sets the builder to the files that read best; returns their format."""
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
    """Returns the files of a split, and which of their records belong to it."""
    try:
        parts = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name} has no split {show(split)}; it has {splits} ({reason})."
        ) from None
    if sum(part.take for part in parts) < 1:
        raise ConfigError(f"{name} has no records in its split {show(split)}.")
    for part in parts:
        if not os.path.exists(part.filename):
            raise ConfigError(
                f"{part.filename} is missing; copy it again from where the others came."
            )
    return parts
