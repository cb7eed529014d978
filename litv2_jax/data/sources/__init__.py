"""Sources of records: data sets of TFDS, and trees of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from absl import logging

from litv2_jax.data.sources.annotated_folders import AnnotatedFolderSource
from litv2_jax.data.sources.files import list_folders
from litv2_jax.data.sources.folders import FolderSource, find_split
from litv2_jax.data.sources.held_out import hold_out
from litv2_jax.data.sources.open_files import allow_many_open_files
from litv2_jax.data.sources.tfds import (
    REAL,
    AnnotatedImageSource,
    ImageSource,
    RealImageSource,
)
from litv2_jax.settings import ConfigError
from litv2_jax.text import compose, literal


class Source(Protocol):
    """Images with labels or annotations, by index; can be sent to other processes.

    Attributes:
        class_names: Names of the classes that the labels number.
    """

    class_names: list[str]

    def __len__(self) -> int:
        """Returns how many records there are."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns `image`, the bytes of a file, and `label`, a number or, where images
        have several, one for each class.

        Annotated images have `annotation`, the bytes of a file, instead of `label`.
        """
        ...

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        ...


def open_source(
    name: str,
    split: str,
    data_dir: str,
    class_names: Sequence[str] | None = None,
    *,
    allow_empty: bool = False,
) -> Source:
    """Opens one split of a data set.

    Args:
        name: `folder` for a tree of image files, `data_dir/split/class/file`; else the
            name of a data set in TFDS, such as `imagenet2012`.
        split: A folder of the tree, or a TFDS split, such as `train[:90%]`.
        data_dir: Folder of the tree, or of TFDS's data sets; "" is the default of TFDS.
        class_names: Those of the training split; a tree to evaluate on may lack some.
            TFDS knows the classes of a data set.
        allow_empty: Whether a folder of a tree may have no images.

    Raises:
        ConfigError: If it is not there, or is not complete.
    """
    allow_many_open_files()
    if name == "folder":
        return FolderSource(split, data_dir, class_names, allow_empty=allow_empty)
    return (RealImageSource if name == REAL else ImageSource)(name, split, data_dir)


def open_splits(
    name: str,
    train_split: str,
    eval_split: str,
    data_dir: str,
    eval_fraction: float = 0.0,
) -> tuple[Source, Source]:
    """Opens what to train on and what to evaluate, which have the same classes.

    Args:
        name: As in `open_source`.
        train_split: Split to train on.
        eval_split: Split to evaluate on.
        data_dir: As in `open_source`.
        eval_fraction: Share of a tree's training images to evaluate on, if it has no
            folder to evaluate on. If it has neither, its own folders are the classes.

    Raises:
        ConfigError: If one is not there or not complete, or if there is a fraction for
            a data set that is no tree.
    """
    if eval_fraction and name != "folder":
        raise ConfigError(
            f"config.data.eval_fraction is {eval_fraction}, but config.data.name is "
            f"{name}, whose splits can be cut by their names, such as train[:80%] and "
            "train[80%:]: set the fraction to 0."
        )
    root = Path(data_dir).expanduser()
    if not eval_fraction or (root / eval_split).is_dir():
        train = open_source(name, train_split, data_dir)
        return train, open_source(name, eval_split, data_dir, train.class_names)
    split = train_split if (root / train_split).is_dir() else "."
    source = FolderSource(split, data_dir)
    train, evaluation = hold_out(source, eval_fraction)
    logging.warning(
        "%s has no folder %s: %d of its %d images are held out to evaluate on.",
        root / split,
        eval_split,
        len(evaluation),
        len(source),
    )
    return train, evaluation


def open_evaluation(
    name: str, split: str, data_dir: str, class_names: Sequence[str]
) -> Source:
    """Opens what to evaluate, without what was trained on.

    Args:
        name: As in `open_source`.
        split: As in `open_source`.
        data_dir: As in `open_source`.
        class_names: Those of the weights to score. If the folders of a tree are among
            them, they are its classes, in this order; otherwise every folder is one.

    Raises:
        ConfigError: If it is not there, or is not complete.
    """
    if name != "folder":
        return open_source(name, split, data_dir)
    folders = {compose(folder) for folder in list_folders(find_split(split, data_dir))}
    known = list(class_names) if folders <= set(class_names) else None
    return open_source(name, split, data_dir, known)


def open_annotated_source(name: str, split: str, data_dir: str) -> Source:
    """Opens one split of a data set with a class for each pixel.

    Args:
        name: `folder` for trees of files, `data_dir/images/split/file` and
            `data_dir/annotations/split/file`; else the name of a data set in TFDS with
            the features image and annotation, such as `ade20k`.
        split: A folder of the trees, or a TFDS split.
        data_dir: As in `open_source`.

    Raises:
        ConfigError: If it is not there, or is not complete.
    """
    allow_many_open_files()
    if name == "folder":
        return AnnotatedFolderSource(split, data_dir)
    return AnnotatedImageSource(name, split, data_dir)


def check_same_classes(train: Source, evaluation: Source) -> None:
    """Raises ConfigError if the labels of two splits mean different classes."""
    if train.class_names == evaluation.class_names:
        return
    names = set(train.class_names) ^ set(evaluation.class_names)
    example = (
        literal(min(names)) if names else "none is missing, but their order differs"
    )
    raise ConfigError(
        f"The training split has {len(train.class_names)} classes, the evaluation "
        f"split {len(evaluation.class_names)}, and they differ (in {example}, for "
        "one); give both the same classes."
    )
