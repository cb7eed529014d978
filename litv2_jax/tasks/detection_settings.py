"""Settings of detection and their validation."""

import dataclasses
from typing import Annotated

from litv2_jax.models.detector import MULTIPLE
from litv2_jax.settings import (
    ConfigError,
    Count,
    NumWorkers,
    OneOf,
    PathText,
    Range,
    Share,
    Side,
    Text,
)
from litv2_jax.tasks.checks import check_group_size, check_scale
from litv2_jax.tasks.model_settings import ModelSettings

# What to do with images that have no annotations.
EMPTY_IMAGES = ("skipped", "kept")

_ScaleSide = Annotated[int, Range(29, 16384)]
_Number = Annotated[int, Range(1, 100_000)]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Section `data` of a recipe.

    Attributes:
        name: Of a data set that `litv2_jax.prepare coco` made, or `shapes`.
        data_dir: Where it is; "" is where TFDS keeps its data sets by default.
        train_split: Split to train on.
        eval_split: Split to evaluate on.
        scale: Longest and shortest side, in pixels, that images are resized to fit in.
        canvases: Heights and widths in pixels of what training pads images to; each
            takes the smallest, and a batch is of one.
        flip: Probability of mirroring a training image.
        max_objects: Objects of an image that there is room for in training.
        empty_images: Whether training images without annotations are `skipped`, as
            published, or `kept`.
        eval_multiple: Step of the canvases, in pixels, that images to evaluate share;
            no score depends on it.
        num_workers: Processes that load images, per host; 0 loads in threads.
        max_unreadable: Images that may be unreadable before the run stops.
    """

    name: Text
    data_dir: PathText
    train_split: Text
    eval_split: Text
    scale: tuple[_ScaleSide, _ScaleSide]
    canvases: tuple[tuple[Side, Side], ...]
    flip: Share
    max_objects: _Number
    empty_images: Annotated[str, OneOf(*EMPTY_IMAGES)]
    eval_multiple: Annotated[int, Range(MULTIPLE, 4096)]
    num_workers: NumWorkers
    max_unreadable: Count


@dataclasses.dataclass(frozen=True)
class DetectorSettings:
    """Section `detector` of a recipe.

    Attributes:
        loss_group_size: Neighboring images whose losses are divided by what they have
            together; 2 as on each GPU of the original, 0 for the whole batch.
        num_proposals: Boxes that the heads of Mask R-CNN look into.
        num_samples: Of these, how many they train on.
    """

    loss_group_size: Count
    num_proposals: _Number = 1000
    num_samples: Annotated[int, Range(4, 100_000)] = 512


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sections of a recipe that are those of detection."""

    model: ModelSettings
    data: DataSettings
    detector: DetectorSettings


def check(settings: Settings) -> None:
    """Raises ConfigError if there can be no such model, or values contradict."""
    settings.model.check("detection")
    data = settings.data
    check_scale(data.scale)
    if not data.canvases:
        raise ConfigError(
            "config.data.canvases is empty; give a height and a width, such as "
            "((800, 1344), (1344, 800))."
        )
    sides = [side for canvas in data.canvases for side in canvas]
    for name, values in (("canvases", sides), ("eval_multiple", [data.eval_multiple])):
        odd = [value for value in values if value % MULTIPLE]
        if odd:
            raise ConfigError(
                f"config.data.{name} has {odd[0]}, but detectors need multiples of "
                f"{MULTIPLE}: use {odd[0] // MULTIPLE * MULTIPLE + MULTIPLE}."
            )


def check_groups(settings: DetectorSettings, batch_size: int) -> None:
    """Raises ConfigError unless groups of losses divide a batch."""
    size = settings.loss_group_size
    check_group_size(
        "detector.loss_group_size", size, batch_size, "for the whole batch"
    )
