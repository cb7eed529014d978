"""Every recipe and argument parses, and every one of its settings has a reader."""

import copy
import dataclasses
import importlib
import math
import typing
from pathlib import Path

import pytest

from litv2_jax import settings
from litv2_jax.tasks import (
    classification_settings,
    detection_settings,
    segmentation_settings,
)
from litv2_jax.training.run_settings import RunSettings
from tests.reference import mark_slow, read_json

CONFIGS = Path(__file__).parents[1] / "configs"
DETECTORS = [f"litv2_{size}{window}" for size in "smb" for window in ("", "_window4")]
ARGUMENTS = {
    "imagenet": [
        "litv2_s",
        "litv2_m",
        "litv2_b",
        *(
            f"litv2_s_alpha{a}"
            for a in ("0.0", "0.2", "0.4", "0.5", "0.7", "0.9", "1.0")
        ),
    ],
    "cifar": ["cifar10", "cifar100"],
    "demo": ["digits", "digits-0-4", "finetune", "shapes"],
    "finetune": ["litv2_s", "litv2_m", "litv2_b", "linear"],
    "finetune_segmentation": ["litv2_s", "litv2_m", "litv2_b"],
    "finetune_detection": [
        f"{detector}_{name}"
        for detector in ("retinanet", "mask_rcnn")
        for name in DETECTORS
    ],
    "ade20k_semantic_fpn": ["litv2_s", "litv2_m", "litv2_b"],
    "coco_retinanet": DETECTORS,
    "coco_mask_rcnn": DETECTORS,
}
TASKS = {
    "classification": classification_settings,
    "detection": detection_settings,
    "segmentation": segmentation_settings,
}
RECIPES = [
    (path.stem, argument)
    for path in sorted(CONFIGS.glob("*.py"))
    for argument in ARGUMENTS.get(path.stem, [None])
]


def read(name, argument):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(argument) if argument else module.get_config()
    return config.to_dict()


def is_between(recipe):
    """Whether a recipe differs from a shorter one in its model's sizes alone."""
    return any(size in str(recipe[1]) for size in ("litv2_m", "litv2_b", "alpha"))


@pytest.mark.parametrize(("name", "argument"), mark_slow(RECIPES, is_between))
def test_every_setting_has_a_reader(name, argument):
    run, rest = RunSettings.split(read(name, argument))
    run.check(num_devices=8)
    task = TASKS[run.task]
    # Builds the model: the shortest of its width.
    rest["model"]["sizes"] = {**rest["model"]["sizes"], "depths": (1, 1, 1, 1)}
    task.check(settings.parse(task.Settings, rest))
    # A setting that is not one is refused, at every level.
    for section in ("", *rest):
        changed = {k: dict(v) for k, v in rest.items()}
        (changed[section] if section else changed)["no_setting"] = 1
        with pytest.raises(settings.ConfigError, match="no_setting is not a setting"):
            settings.parse(task.Settings, changed)


@pytest.mark.parametrize(
    "name",
    [
        "imagenet",
        "cifar",
        "demo",
        "finetune",
        "finetune_segmentation",
        "finetune_detection",
        "coco_retinanet",
        "coco_mask_rcnn",
    ],
)
def test_unknown_arguments_are_refused(name):
    with pytest.raises(ValueError, match="No recipe for 'litv2_xl'; there "):
        read(name, "litv2_xl")


@pytest.mark.parametrize("model", ["litv2_s", "litv2_m", "litv2_b"])
def test_imagenet_recipes_are_the_published_ones(model):
    recipe = read_json("recipe.json")[model]
    config = read("imagenet", model)
    original = recipe["config"]
    assert config["epochs"] == recipe["raw_train"]["EPOCHS"]
    assert config["batch_size"] == recipe["total_batch"]
    assert config["model"]["drop_path_rate"] == recipe["drop_path_rate"]
    check_augmentation(config["augment"], original)
    check_optimizer(config["optimizer"], recipe["raw_train"])


def test_the_384_recipe_is_the_published_one():
    recipe = read_json("recipe.json")["litv2_b_384"]
    config = read("imagenet_384", None)
    assert config["epochs"] == recipe["raw_train"]["EPOCHS"]
    assert config["batch_size"] == recipe["total_batch"]
    assert config["model"]["drop_path_rate"] == recipe["drop_path_rate"]
    assert config["data"]["image_size"] == recipe["config"]["DATA"]["IMG_SIZE"]
    # Without a crop, the whole image is resized.
    assert recipe["config"]["TEST"]["CROP"] is False
    assert config["data"]["eval_crop"] == 1
    check_augmentation(config["augment"], recipe["config"])
    check_optimizer(config["optimizer"], recipe["raw_train"])


def check_augmentation(augment: dict, original: dict) -> None:
    settings = original["AUG"]
    # m is the magnitude; the number of layers is left at timm's 2.
    magnitude, std = (augment[f"randaugment_{name}"] for name in ("magnitude", "std"))
    assert settings["AUTO_AUGMENT"] == f"rand-m{magnitude:g}-mstd{std:g}-inc1"
    assert augment["randaugment_layers"] == 2
    assert (settings["REMODE"], settings["RECOUNT"]) == ("pixel", 1)
    assert augment["erasing"] == settings["REPROB"]
    assert augment["mixup"] == settings["MIXUP"]
    assert augment["cutmix"] == settings["CUTMIX"]
    # Each process of the original draws once for its 128 images.
    assert augment["mix_group_size"] == 128
    assert augment["mixup_switch"] == settings["MIXUP_SWITCH_PROB"]
    assert augment["label_smoothing"] == original["MODEL"]["LABEL_SMOOTHING"]


def check_optimizer(optimizer: dict, train: dict) -> None:
    # The original's rates are for 512 images, too.
    assert optimizer["base_batch_size"] == 512
    assert optimizer["learning_rate"] == train["BASE_LR"]
    assert optimizer["warmup_learning_rate"] == train["WARMUP_LR"]
    assert optimizer["end_learning_rate"] == train["MIN_LR"]
    assert optimizer["warmup_epochs"] == train["WARMUP_EPOCHS"]
    assert optimizer["weight_decay"] == train["WEIGHT_DECAY"]
    assert optimizer["clip_norm"] == train["CLIP_GRAD"]


def numbers_without_bounds(kind, name=""):
    """Yields the numbers of a settings dataclass that may have any value."""
    for key, field in typing.get_type_hints(kind, include_extras=True).items():
        yield from unbounded(field, f"{name}.{key}")


def unbounded(field, name):
    if isinstance(field, type) and dataclasses.is_dataclass(field):
        yield from numbers_without_bounds(field, name)
        return
    arguments = typing.get_args(field)
    if any(isinstance(argument, settings.Range) for argument in arguments):
        return
    if field in (int, float):
        yield name
    for argument in arguments:
        yield from unbounded(argument, name)


@pytest.mark.parametrize(
    "kind", [RunSettings, *(task.Settings for task in TASKS.values())]
)
def test_every_number_has_bounds(kind):
    assert not list(numbers_without_bounds(kind))


@pytest.mark.parametrize("argument", DETECTORS)
@pytest.mark.parametrize("model", ["retinanet", "mask_rcnn"])
def test_recipes_of_detectors_are_the_published_ones(model, argument):
    config = read(f"coco_{model}", argument)
    recipes = read_json("dense/recipes.json")[model]
    _, size, *window = argument.split("_")
    backbone = recipes[f"{size}_ws{4 if window else 2}"]["backbone"]
    common = recipes["common"]
    assert config["model"]["name"] == f"{model}_{argument}"
    assert config["model"]["drop_path_rate"] == backbone["drop_path_rate"]
    assert config["remat"] == ("blocks" if backbone["use_checkpoint"] else "none")
    assert config["epochs"] == common["runner"]["max_epochs"]
    # On each of the GPUs, whose statistics and losses are their own.
    group = common["samples_per_gpu"]
    assert config["batch_size"] == group * common["gpus_in_readme"]
    assert config["batch_norm_group_size"] == group
    assert config["detector"]["loss_group_size"] == group
    resize, flip = common["train_pipeline"][2:4]
    assert list(config["data"]["scale"]) == resize["img_scale"]
    assert config["data"]["flip"] == flip["flip_ratio"]
    optimizer = config["optimizer"]
    assert optimizer["weight_decay"] == common["optimizer"]["weight_decay"]
    assert optimizer["clip_norm"] == 0
    assert common["optimizer_config"]["grad_clip"] is None
    assert list(optimizer["drop_epochs"]) == common["lr_config"]["step"]


VALUES = (math.nan, math.inf, -math.inf, 1e30, -1e30, 10**400, -(10**400))


@pytest.mark.parametrize(
    ("name", "argument"),
    [("demo", "digits"), ("demo", "shapes"), ("coco_mask_rcnn", "litv2_s")],
)
def test_no_number_that_is_not_finite_or_is_huge_is_accepted(name, argument):
    """In any setting, as itself or within a tuple."""
    recipe = read(name, argument)
    task = TASKS[recipe["task"]]

    def parse(config):
        run, rest = RunSettings.split(config)
        run.check(num_devices=1)
        task.check(settings.parse(task.Settings, rest))

    def places(tree, path=()):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from places(value, (*path, key))
            elif isinstance(value, int | float | tuple):
                yield (*path, key), value

    parse(recipe)
    for (*path, key), old in places(recipe):
        for value in VALUES:
            config = copy.deepcopy(recipe)
            section = config
            for name in path:
                section = section[name]
            is_tuple = isinstance(old, tuple)
            section[key] = (value, *old[1:]) if is_tuple else value
            with pytest.raises(settings.ConfigError, match=key) as error:
                parse(config)
            assert "\n" not in str(error.value)
