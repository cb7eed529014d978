"""The original's tables of scores: the data that each is measured on, and how."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from litv2_jax.recipes import read_recipe
from litv2_jax.settings import ConfigError
from litv2_jax.weights.published import PUBLISHED, PublishedFile, find_published


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table of published scores, and how its rows are measured.

    Attributes:
        title: What the table is called.
        task: Of the models.
        dataset: Name of the data set in TFDS.
        trees: Instead of a data set of TFDS, a tree of files will do: the folder that
            it is known by, and the split that this makes.
        images_per_device: Images in a batch for each device, by default; the scores do
            not depend on it.
        find_recipe: Returns the recipe of a model, whose evaluation is taken.
    """

    title: str
    task: str
    dataset: str
    trees: Mapping[str, str]
    images_per_device: int
    find_recipe: Callable[[str], ConfigDict]

    def choose_files(self, names: Sequence[str]) -> list[PublishedFile]:
        """Returns the files of models, by default of all in the table.

        Raises:
            ConfigError: If one does not exist, or is not in the table.
        """
        files = [find_published(f"published:{name}") for name in names]
        for file in files:
            if file.task != self.task:
                raise ConfigError(
                    f"{file.name} is for {file.task}, but the table {self.title} is of "
                    f"{self.task}: leave it out, or reproduce the other table."
                )
        return files or [x for x in PUBLISHED.values() if x.task == self.task]


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """How a table is measured here.

    Attributes:
        data_dir: Folder of the data set.
        split: Split to evaluate on; "" for the published one.
        batch_size: Images of a batch, over all devices; 0 for the table's.
        num_workers: Processes that load images; None for the recipe's.
        dtype: Type of the computation.
    """

    data_dir: Path
    split: str = ""
    batch_size: int = 0
    num_workers: int | None = None
    dtype: str = "float32"


def configure(
    table: PublishedTable, model: str, options: EvalOptions
) -> dict[str, Any]:
    """Returns the recipe of a model, to be evaluated with these options."""
    config: Any = table.find_recipe(model)
    config.data.data_dir = str(options.data_dir)
    config.data.update(_find_data(table, options))
    # An image that is left out would change the score.
    config.data.max_unreadable = 0
    if options.num_workers is not None:
        config.data.num_workers = options.num_workers
    config.model.dtype = options.dtype
    default = table.images_per_device * jax.device_count()
    config.batch_size = options.batch_size or default
    # These groups, of which batches consist, are for training.
    config.batch_norm_group_size = 0
    for section, setting in _GROUPS:
        if section in config:
            config[section][setting] = 0
    return config.to_dict()


_GROUPS = (("augment", "mix_group_size"), ("detector", "loss_group_size"))


def _find_data(table: PublishedTable, options: EvalOptions) -> dict[str, str]:
    """Returns the settings for the data set, or the tree, in the folder."""
    found = {"eval_split": options.split} if options.split else {}
    if (options.data_dir / table.dataset).is_dir():
        return found
    for folder, split in table.trees.items():
        if (options.data_dir / folder).is_dir():
            return {"name": "folder", "eval_split": split} | found
    return found


def _find_imagenet(model: str) -> ConfigDict:
    if model == "litv2_b_384":
        return read_recipe("configs/imagenet_384.py")
    return read_recipe(f"configs/imagenet.py:{model}")


def _find_ade20k(model: str) -> ConfigDict:
    size = model.removeprefix("semantic_fpn_")
    return read_recipe(f"configs/ade20k_semantic_fpn.py:{size}")


def _find_coco(model: str) -> ConfigDict:
    kind, _, size = model.partition("_litv2")
    return read_recipe(f"configs/coco_{kind}.py:litv2{size}")


TABLES = {
    "imagenet": PublishedTable(
        title="LITv2 on ImageNet-1k",
        task="classification",
        dataset="imagenet2012",
        trees={"val": "val", "validation": "validation"},
        images_per_device=64,
        find_recipe=_find_imagenet,
    ),
    "ade20k": PublishedTable(
        title="Semantic FPN with LITv2 on ADE20K",
        task="segmentation",
        dataset="ade20k",
        trees={"annotations/validation": "validation"},
        images_per_device=2,
        find_recipe=_find_ade20k,
    ),
    "coco": PublishedTable(
        title="RetinaNet and Mask R-CNN with LITv2 on COCO",
        task="detection",
        dataset="coco",
        trees={},
        images_per_device=2,
        find_recipe=_find_coco,
    ),
}
