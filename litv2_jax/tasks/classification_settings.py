"""Settings of classification and their validation."""

import dataclasses
from typing import Annotated

from litv2_jax.data.decode import EXIF
from litv2_jax.data.transforms.randaugment import RandAugment
from litv2_jax.settings import (
    Count,
    NumWorkers,
    OneOf,
    PathText,
    Range,
    Rising,
    Share,
    Sides,
    Text,
)
from litv2_jax.tasks.checks import check_group_size
from litv2_jax.tasks.model_settings import ModelSettings

# Of an image, or of its width to its height.
_Area = Annotated[float, Range(above=0, most=1)]
_Ratio = Annotated[float, Range(0.01, 100)]
# Parameter of a beta distribution, or 0.
_Beta = Annotated[float, Range(0, 1000)]
# Where RandAugment runs: in the training step, or where images are loaded.
RANDAUGMENT_ON = ("device", "host")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Section `data` of a recipe.

    Attributes:
        name: TFDS name of the data set, or `folder` for a tree of image files.
        data_dir: Where TFDS keeps it, "" being where it does by default; or the tree.
        train_split: TFDS split, or folder of the tree, to train on.
        eval_split: The same to evaluate on.
        eval_fraction: Share of the training images that is held out to evaluate on
            where a tree has no folder `eval_split`; 0 makes that an error.
        image_size: Side of the images in pixels, or their height and width.
        scale: Least and largest share of the area of a training image that is cropped.
        ratio: Least and largest ratio of width to height of that crop.
        flip: Probability of mirroring a training image.
        eval_crop: Share of the shorter side that evaluation keeps; 1 resizes the
            image without keeping its aspect ratio.
        num_workers: Processes that load images, per host; 0 loads in threads.
        max_unreadable: Images that may be unreadable before the run stops.
        exif: What to make of the EXIF orientation of images: `ignored`, as published,
            or `applied`, which turns them upright.
    """

    name: Text
    data_dir: PathText
    train_split: Text
    eval_split: Text
    image_size: Sides
    scale: Annotated[tuple[_Area, _Area], Rising()]
    ratio: Annotated[tuple[_Ratio, _Ratio], Rising()]
    flip: Share
    eval_crop: Annotated[float, Range(0.1, 1)]
    num_workers: NumWorkers
    max_unreadable: Count
    exif: Annotated[str, OneOf(*EXIF)] = "ignored"
    eval_fraction: Annotated[float, Range(0, below=1)] = 0.0


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """Section `augment` of a recipe.

    Attributes:
        randaugment_layers: Operations of RandAugment for each image; 0 is off.
        randaugment_magnitude: How strong they are, from 0 to 10.
        randaugment_std: Standard deviation of the magnitude.
        randaugment_on: Where they are applied: `device`, in the training step, or
            `host`, by Pillow in the processes that load images, 2 ms of a core for
            each image.
        erasing: Probability of filling a part of an image with noise.
        mixup: Parameter of the beta distribution; 0 is off.
        cutmix: Parameter of the beta distribution; 0 is off.
        mixup_switch: Probability of CutMix where both are on.
        label_smoothing: Share of the target spread over all classes.
        mix_group_size: Neighboring images that share one draw and are mixed among
            themselves, 128 being those of one GPU of the original; 0 for the whole
            batch.
    """

    randaugment_layers: Annotated[int, Range(0, 20)]
    randaugment_magnitude: Annotated[float, Range(0, 10)]
    randaugment_std: Annotated[float, Range(0, 10)]
    erasing: Share
    mixup: _Beta
    cutmix: _Beta
    mixup_switch: Share
    label_smoothing: Annotated[float, Range(0, below=1)]
    mix_group_size: Count = 0
    randaugment_on: Annotated[str, OneOf(*RANDAUGMENT_ON)] = "device"

    def rand_augment_on_host(self) -> RandAugment | None:
        """Returns what follows crop and flip where images are loaded, if anything."""
        if not self.randaugment_layers or self.randaugment_on != "host":
            return None
        return RandAugment(
            self.randaugment_magnitude, self.randaugment_std, self.randaugment_layers
        )

    def describe_rand_augment(self) -> str:
        """Returns how many operations an image has, and where."""
        if not self.randaugment_layers:
            return "off"
        return (
            f"{self.randaugment_layers} operations for each image, on the "
            f"{self.randaugment_on} (config.augment.randaugment_on)"
        )


# Test-time augmentation.
TTA = ("none", "flip")


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Section `eval` of a recipe.

    Attributes:
        tta: Test-time augmentation: `flip` averages the logits of each image and its
            mirror image; `none` takes the image alone.
    """

    tta: Annotated[str, OneOf(*TTA)] = "none"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sections of a recipe that are those of classification."""

    model: ModelSettings
    data: DataSettings
    augment: AugmentSettings
    eval: EvalSettings = EvalSettings()


def check(settings: Settings) -> None:
    """Raises ConfigError if there can be no such model."""
    settings.model.check("classification")


def check_mix_group_size(settings: AugmentSettings, batch_size: int) -> None:
    """Raises ConfigError unless groups of images to mix divide a batch."""
    size = settings.mix_group_size
    check_group_size(
        "augment.mix_group_size", size, batch_size, "to mix the whole batch"
    )
