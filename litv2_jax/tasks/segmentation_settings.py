"""What a recipe says of segmentation, and what of it is impossible."""

import dataclasses

from litv2_jax.settings import (
    ConfigError,
    check_not_negative,
    check_positive,
    check_share,
)
from litv2_jax.tasks.model_settings import ModelSettings

# What to make of the label 0.
ZERO_LABELS = ("ignored", "class")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Section `data` of a recipe.

    Attributes:
        name: TFDS name of the data set, or `folder` for a tree of images and maps.
        data_dir: Where TFDS keeps it, "" being where it does by default; or the tree.
        train_split: TFDS split, or folder of the tree, to train on.
        eval_split: The same to evaluate on.
        scale: Longest and shortest side, in pixels, that images are resized to fit in.
        ratio: Least and largest factor on that scale in training.
        crop_size: Side of the training images in pixels.
        max_class_share: Share of a crop that one class should stay below.
        flip: Probability of mirroring a training image.
        distortion: Probability of changing the colours of a training image.
        zero_label: What the label 0 is: `ignored`, so that the first class is 1, or a
            `class`.
        eval_multiple: Images to evaluate are padded until this divides their sides, so
            that one compiled program serves many sizes; 1 pads none, as the original.
        num_workers: Processes that load images, per host; 0 loads in threads.
        max_unreadable: Images that may be unreadable before the run stops.
    """

    name: str
    data_dir: str
    train_split: str
    eval_split: str
    scale: tuple[int, int]
    ratio: tuple[float, float]
    crop_size: int
    max_class_share: float
    flip: float
    distortion: float
    zero_label: str
    eval_multiple: int
    num_workers: int
    max_unreadable: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a recipe says of segmentation."""

    model: ModelSettings
    data: DataSettings


def check(settings: Settings) -> None:
    """Raises ConfigError if a value is impossible."""
    settings.model.check("segmentation")
    data = settings.data
    long_side, short_side = data.scale
    if not 0 < short_side <= long_side:
        raise ConfigError(
            f"config.data.scale is {data.scale}; give the longest side, then the "
            "shortest, both above 0."
        )
    low, high = data.ratio
    if not 0 < low <= high:
        raise ConfigError(
            f"config.data.ratio is ({low}, {high}); it must rise from above 0."
        )
    for name in ("crop_size", "eval_multiple"):
        check_positive(getattr(data, name), f"config.data.{name}")
    for name in ("max_class_share", "flip", "distortion"):
        check_share(getattr(data, name), f"config.data.{name}")
    check_not_negative(data.max_unreadable, "config.data.max_unreadable")
    if data.zero_label not in ZERO_LABELS:
        raise ConfigError(
            f"config.data.zero_label is {data.zero_label!r}; use "
            f"{' or '.join(ZERO_LABELS)}."
        )
