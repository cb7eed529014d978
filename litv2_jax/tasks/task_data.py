"""The data set of a task: opened, or only what is known of a published one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from litv2_jax.data.smaller_names import find_original
from litv2_jax.data.sources import Source, check_same_classes
from litv2_jax.data.unreadable import UnreadableRecords
from litv2_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True)
class TaskData:
    """What a task trains on and is evaluated on.

    Attributes:
        train: Training split.
        evaluation: Evaluation split.
        unreadable: Counts the records that cannot be read.
        is_only_scored: Whether nothing is trained, and the evaluation split stands for
            both.
    """

    train: Source
    evaluation: Source
    unreadable: UnreadableRecords
    is_only_scored: bool = False

    @classmethod
    def join(cls, train: Source, evaluation: Source, max_unreadable: int) -> "TaskData":
        """Returns both splits of a data set.

        Args:
            train: Training split.
            evaluation: Evaluation split.
            max_unreadable: Records that may be unreadable.

        Raises:
            ConfigError: If their labels mean different classes.
        """
        check_same_classes(train, evaluation)
        is_shared = jax.process_count() > 1
        return cls(
            train, evaluation, UnreadableRecords(max_unreadable, is_shared=is_shared)
        )

    @classmethod
    def score(cls, evaluation: Source, max_unreadable: int) -> "TaskData":
        """Returns what there is to score weights with.

        Args:
            evaluation: Evaluation split.
            max_unreadable: Records that may be unreadable.
        """
        data = cls.join(evaluation, evaluation, max_unreadable)
        return dataclasses.replace(data, is_only_scored=True)

    @property
    def class_names(self) -> Sequence[str]:
        """What the labels stand for."""
        return self.train.class_names

    def loader_options(self, num_workers: int) -> dict[str, Any]:
        """Returns the options of a pipeline that every task gives it."""
        return {
            "num_workers": num_workers,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
            "unreadable": self.unreadable,
        }


# Training and evaluation images, and classes, of published data sets.
_SIZES = {
    "imagenet2012": (1_281_167, 50_000, 1000),
    "imagenette": (9_469, 3_925, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "ade20k": (20_210, 2_000, 150),
    "coco": (117_266, 5_000, 80),
}


def find_sizes(name: str) -> tuple[int, int, int]:
    """Returns the images to train on and to evaluate, and the classes, of a data set.

    Args:
        name: Its name in TFDS.

    Raises:
        ConfigError: If the package does not know it.
    """
    original, _ = find_original(name) or (name, 0)
    if original not in _SIZES:
        raise ConfigError(
            f"The size of the data set {name} is only known once it is opened; without "
            f"data there can be a task for {', '.join(_SIZES)}."
        )
    return _SIZES[original]
