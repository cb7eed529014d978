"""Opens data sets that TensorFlow Datasets has prepared, without TensorFlow."""

from typing import Any

import tensorflow_datasets as tfds

import litv2_jax.data.digits  # noqa: F401 (makes the name known to TFDS)
from litv2_jax.settings import ConfigError

# Built here in seconds; other data sets are the user's to prepare.
LOCAL = ("digits",)


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
                labels, or it is not prepared as array_record.
        """
        builder = _create_builder(name, data_dir)
        _prepare(builder, name)
        try:
            self._records = builder.as_data_source(
                split=split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            raise ConfigError(
                f"{name} has no split {split!r}; it has {splits} ({error})."
            ) from None
        self.class_names: list[str] = list(builder.info.features["label"].names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        return {"image": record["image"], "label": record["label"]}


def _create_builder(name: str, data_dir: str) -> Any:
    try:
        builder: Any = tfds.builder(
            name, data_dir=data_dir or None, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(
            f"config.data.name is {name!r}, which TensorFlow Datasets does not know."
        ) from None
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise ConfigError(
            f"config.data.name is {name}, which has {', '.join(features)}; "
            "classification needs image and label."
        )
    return builder


def _prepare(builder: Any, name: str) -> None:
    if name in LOCAL:
        builder.download_and_prepare()
    if not builder.info.splits:
        raise ConfigError(
            f"{name} is not prepared in {builder.data_dir}. Where TensorFlow is "
            f"installed, `tfds build {name} --file_format=array_record` does it; then "
            "point config.data.data_dir at the folder that has it."
        )
