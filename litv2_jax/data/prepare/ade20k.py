"""ADE20K for semantic segmentation, prepared from its published folders.

That is ADEChallengeData2016, whose annotations have the classes as 1 to 150, and 0 for
what is none of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from litv2_jax.class_names import ade20k_names
from litv2_jax.data.sources.annotated_folders import (
    annotation_path,
    image_path,
    list_annotated,
)
from litv2_jax.settings import ConfigError

# The value k of an annotation is name k - 1.
CLASS_NAMES = ade20k_names()

_FOLDERS = {"train": "training", "validation": "validation"}
_COUNTS = {"train": 20_210, "validation": 2_000}
_ARCHIVE = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"


class Ade20k(tfds.core.GeneratorBasedBuilder):
    """Builder of the data set `ade20k`; the bytes of the files stay as they are."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The 150 classes of the challenge of 2016."}

    def __init__(
        self, *, folder: Path | None = None, allow_partial: bool = False, **options: Any
    ):
        """Creates the builder.

        Args:
            folder: ADEChallengeData2016; only the preparation needs it.
            allow_partial: Whether images may be missing.
            **options: Those of every builder.
        """
        self._folder = folder
        self._allow_partial = allow_partial
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "file_name": tfds.features.Text(),
                "image": tfds.features.Image(encoding_format="jpeg"),
                # Its names are those of the values from 1 on: 0 is no class.
                "annotation": tfds.features.LabeledImage(
                    labels=CLASS_NAMES, encoding_format="png"
                ),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=features,
            homepage="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Downloaded by hand.
        if self._folder is None:
            raise ConfigError(
                "ade20k is prepared by `python -m litv2_jax.prepare ade20k --source "
                "ADEChallengeData2016`."
            )
        names = {
            split: list_annotated(self._folder, folder)
            for split, folder in _FOLDERS.items()
            if (self._folder / "images" / folder).is_dir() or not self._allow_partial
        }
        for split, found in names.items():
            if len(found) != _COUNTS[split] and not self._allow_partial:
                raise ConfigError(
                    f"{self._folder / 'images' / _FOLDERS[split]} has {len(found)} "
                    f"images, not {_COUNTS[split]}; unpack {_ARCHIVE} again, or add "
                    "--allow-partial."
                )
        return {
            split: self._generate_examples(self._folder, split, found)
            for split, found in names.items()
        }

    def _generate_examples(
        self, root: Path, split: str, names: list[tuple[str, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image_name, annotation_name in names:
            image = image_path(root, _FOLDERS[split], image_name)
            annotation = annotation_path(root, _FOLDERS[split], annotation_name)
            yield (
                image_name,
                {
                    "file_name": image_name,
                    "image": image.read_bytes(),
                    "annotation": annotation.read_bytes(),
                },
            )


def prepare_ade20k(
    folder: Path, data_dir: str, *, allow_partial: bool
) -> dict[str, int]:
    """Writes ade20k as array_record and returns the size of each split.

    Args:
        folder: ADEChallengeData2016, as it was unpacked.
        data_dir: Where TFDS keeps its data sets; "" is where it does by default.
        allow_partial: Whether images may be missing, or one split.

    Raises:
        ConfigError: If a folder, an image or its annotation is missing, or the data set
            is prepared already.
    """
    builder = Ade20k(
        folder=folder,
        allow_partial=allow_partial,
        data_dir=data_dir or None,
        file_format="array_record",
    )
    if builder.info.splits:
        raise ConfigError(
            f"ade20k is prepared already in {builder.data_dir}; remove that folder to "
            "prepare it again."
        )
    missing = [
        name for name in ("images", "annotations") if not (folder / name).is_dir()
    ]
    if missing:
        raise ConfigError(
            f"{folder} has no folder {' and no folder '.join(missing)}; give the "
            f"folder ADEChallengeData2016, unpacked from {_ARCHIVE}."
        )
    builder.download_and_prepare()
    return {name: split.num_examples for name, split in builder.info.splits.items()}
