"""What a recipe says of classification, and what of it is impossible."""

import dataclasses

from litv2_jax.settings import (
    ConfigError,
    check_not_negative,
    check_positive,
    check_share,
)
from litv2_jax.tasks.model_settings import ModelSettings


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Section `data` of a recipe.

    Attributes:
        name: TFDS name of the data set, or `folder` for a tree of image files.
        data_dir: Where TFDS keeps it, "" being where it does by default; or the tree.
        train_split: TFDS split, or folder of the tree, to train on.
        eval_split: The same to evaluate on.
        image_size: Side of the images in pixels.
        scale: Least and largest share of the area of a training image that is cropped.
        ratio: Least and largest ratio of width to height of that crop.
        flip: Probability of mirroring a training image.
        eval_crop: Share of the shorter side that evaluation keeps; 1 squeezes the whole
            image into the square.
        num_workers: Processes that load images, per host; 0 loads in threads.
        max_unreadable: Images that may be unreadable before the run stops.
    """

    name: str
    data_dir: str
    train_split: str
    eval_split: str
    image_size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    eval_crop: float
    num_workers: int
    max_unreadable: int


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """Section `augment` of a recipe.

    Attributes:
        randaugment_layers: Operations of RandAugment for each image; 0 is off.
        randaugment_magnitude: How strong they are, from 0 to 10.
        randaugment_std: Standard deviation of the magnitude.
        erasing: Probability of filling a part of an image with noise.
        mixup: Parameter of the beta distribution; 0 is off.
        cutmix: Parameter of the beta distribution; 0 is off.
        mixup_switch: Probability of CutMix where both are on.
        mix_group_size: Neighboring images that share one draw and are mixed among
            themselves, 128 being those of one GPU of the original; 0 for the whole
            batch.
        label_smoothing: Share of the target spread over all classes.
    """

    randaugment_layers: int
    randaugment_magnitude: float
    randaugment_std: float
    erasing: float
    mixup: float
    cutmix: float
    mixup_switch: float
    mix_group_size: int
    label_smoothing: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a recipe says of classification."""

    model: ModelSettings
    data: DataSettings
    augment: AugmentSettings


def check(settings: Settings) -> None:
    """Raises ConfigError if a value is impossible."""
    settings.model.check("classification")
    check_positive(settings.data.image_size, "config.data.image_size")
    check_share(settings.data.flip, "config.data.flip")
    check_share(settings.data.eval_crop, "config.data.eval_crop")
    check_positive(settings.data.eval_crop, "config.data.eval_crop")
    for name in ("scale", "ratio"):
        low, high = getattr(settings.data, name)
        if not 0 < low <= high:
            raise ConfigError(
                f"config.data.{name} is ({low}, {high}); it must rise from above 0."
            )
    check_not_negative(settings.data.max_unreadable, "config.data.max_unreadable")
    for name in (
        "randaugment_layers",
        "randaugment_std",
        "mixup",
        "cutmix",
        "mix_group_size",
    ):
        check_not_negative(getattr(settings.augment, name), f"config.augment.{name}")
    magnitude = settings.augment.randaugment_magnitude
    if not 0 <= magnitude <= 10:
        raise ConfigError(
            f"config.augment.randaugment_magnitude is {magnitude} but must be within 0 "
            "and 10."
        )
    for name in ("erasing", "mixup_switch", "label_smoothing"):
        check_share(getattr(settings.augment, name), f"config.augment.{name}")


def check_mix_group_size(settings: AugmentSettings, batch_size: int) -> None:
    """Raises ConfigError unless groups of images to mix divide a batch."""
    group = min(settings.mix_group_size, batch_size)
    if group and batch_size % group:
        raise ConfigError(
            f"config.augment.mix_group_size is {group}, which does not divide "
            f"config.batch_size, {batch_size}: use a divisor of it, or 0 to mix the "
            "whole batch."
        )
