"""Settings of segmentation and their validation."""

import dataclasses
from typing import Annotated

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
from litv2_jax.tasks.checks import check_scale
from litv2_jax.tasks.model_settings import ModelSettings

# What to make of the label 0.
ZERO_LABELS = ("ignored", "class")

# What images are resized to fit in, in pixels, and factors on that.
_ScaleSide = Annotated[int, Range(29, 16384)]
_Factor = Annotated[float, Range(0.01, 10)]


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
        crop_size: Side of the training images in pixels, or their height and width.
        max_class_share: Share of a crop that one class should stay below.
        flip: Probability of mirroring a training image.
        distortion: Probability of changing the colors of a training image.
        zero_label: What the label 0 is: `ignored`, so that the first class is 1, or a
            `class`.
        eval_multiple: Step of the canvases, in pixels, that images to evaluate share so
            that one compiled program serves many sizes. Scores do not depend on it: the
            model computes each image as if it were alone. 1 compiles for each size.
        num_workers: Processes that load images, per host; 0 loads in threads.
        max_unreadable: Images that may be unreadable before the run stops.
    """

    name: Text
    data_dir: PathText
    train_split: Text
    eval_split: Text
    scale: tuple[_ScaleSide, _ScaleSide]
    ratio: Annotated[tuple[_Factor, _Factor], Rising()]
    crop_size: Sides
    max_class_share: Share
    flip: Share
    distortion: Share
    zero_label: Annotated[str, OneOf(*ZERO_LABELS)]
    eval_multiple: Annotated[int, Range(1, 4096)]
    num_workers: NumWorkers
    max_unreadable: Count


# Test-time augmentation, and the factors on the scale of images that each has.
TTA = {
    "none": (1.0,),
    "flip": (1.0,),
    # As in the configurations of mmsegmentation.
    "multiscale": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
}


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Section `eval` of a recipe.

    Attributes:
        tta: Test-time augmentation: `flip` averages the probabilities of each image and
            its mirror image; `multiscale` those of both at six sizes, 0.5 to 1.75 times
            the scale; `none` takes the image alone.
    """

    tta: Annotated[str, OneOf(*TTA)] = "none"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Factors on the scale of images, one of which is 1."""
        return TTA[self.tta]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sections of a recipe that are those of segmentation."""

    model: ModelSettings
    data: DataSettings
    eval: EvalSettings = EvalSettings()


def check(settings: Settings) -> None:
    """Raises ConfigError if there can be no such model, or values contradict."""
    settings.model.check("segmentation")
    check_scale(settings.data.scale)
