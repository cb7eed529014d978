"""What the task makes of a tree of files; its runs are in tests/test_resume.py."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import folder
from litv2_jax import tasks
from litv2_jax.augment.normalize import normalize
from litv2_jax.settings import ConfigError
from litv2_jax.training.run_settings import RunSettings


@pytest.fixture
def tree(tmp_path):
    """Lying images, whose EXIF orientation says that they are upright ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255
    for name in ("train/ant", "train/bee", "train/c$x$_%", "val/bee", "val/c$x$_%"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png", exif=exif)
    return tmp_path


def create(tree, scored=None, **changes):
    config = folder.get_config()
    config.data.data_dir = str(tree)
    config.data.image_size, config.batch_size = 32, 4
    config.data.num_workers = 0
    config.data.eval_crop = 1.0
    config.augment.mix_group_size = 0
    config.model.sizes.embed_dim = 24
    config.model.sizes.depths = (1, 1, 1, 1)
    config = config.to_dict()
    for name, value in changes.items():
        section, key = name.split(".")
        config[section][key] = value
    run, rest = RunSettings.split(config)
    options = {"batch_size": run.batch_size, "seed": run.seed, "scored": scored}
    return tasks.create_task(run.task, rest, **options)


def test_a_validation_split_may_lack_a_class(tree):
    task = create(tree)
    assert task.description["class_names"] == ["ant", "bee", "c$x$_%"]
    labels = np.concatenate([batch["label"] for batch in task.eval_batches()])
    assert labels.tolist() == [1] * 4 + [2] * 4


def test_a_validation_split_has_no_other_classes(tree):
    (tree / "val" / "cat").mkdir()
    with pytest.raises(ConfigError, match="no classes of the training split: cat"):
        create(tree)


def test_scoring_needs_no_training_split(tree):
    shutil.rmtree(tree / "train")
    with pytest.raises(ConfigError, match="There is no folder .*train"):
        create(tree)
    task = create(tree, scored=["ant", "c$x$_%", "bee"])
    assert task.description["class_names"] == ["ant", "c$x$_%", "bee"]
    labels = np.concatenate([batch["label"] for batch in task.eval_batches()])
    assert labels.tolist() == [1] * 4 + [2] * 4
    # Of weights that do not name these folders, every folder is a class.
    assert create(tree, scored=["x"]).description["class_names"] == ["bee", "c$x$_%"]


def test_scores_of_the_classes_are_written(tree, tmp_path):
    task = create(tree)
    metric = task.metric()
    ones = np.ones(3)
    outputs = {"top1": ones, "top5": ones, "loss": ones, "valid": ones > 0}
    labels = np.array([0, 1, 2])
    metric.add({**outputs, "label": labels, "prediction": labels})
    (tmp_path / "scores").mkdir()
    task.write_scores(metric, tmp_path / "scores")
    names = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert names == ["classes.csv", "confusion.csv", "confusion.png"]
    pixels = np.asarray(Image.open(tmp_path / "scores" / "confusion.png"))
    assert pixels.std() > 10


@pytest.mark.parametrize("exif", ["ignored", "applied"])
def test_the_exif_orientation_is_a_setting_that_the_checkpoint_has(tree, exif):
    task = create(tree, **{"data.exif": exif})
    assert task.description["input"]["exif"] == exif
    # Stored, columns are of one color each; upright, rows are.
    axis = 0 if exif == "ignored" else 1
    evaluated = next(iter(task.eval_batches()))["image"]
    assert np.ptp(evaluated) == 255
    for image in (*evaluated, *next(iter(task.train_batches(0)))["image"]):
        assert not np.ptp(image, axis).any()


def test_images_need_not_be_square(tree):
    task = create(tree, **{"data.image_size": (32, 48), "data.eval_crop": 0.875})
    assert "image of 32x48" in task.facts()["model"]
    batch = next(iter(task.train_batches(0)))
    assert batch["image"].shape == (4, 32, 48, 3)
    assert next(iter(task.eval_batches()))["image"].shape == (4, 32, 48, 3)
    augmented = jax.jit(task.augment)(batch, jax.random.key(0))["image"]
    assert augmented.shape == (4, 32, 48, 3)


# What else changes images, except for their normalization.
ALONE = {f"augment.{name}": 0.0 for name in ("erasing", "mixup", "cutmix")}


@pytest.mark.parametrize("place", ["device", "host"])
def test_randaugment_runs_in_one_place(tree, place):
    task = create(tree, **ALONE, **{"augment.randaugment_on": place})
    off = create(tree, **ALONE, **{"augment.randaugment_layers": 0})
    assert task.facts()["RandAugment"].startswith("2 operations for each image, on th")
    assert f"on the {place} " in task.facts()["RandAugment"]
    assert off.facts()["RandAugment"] == "off"
    batch, plain = (next(iter(x.train_batches(0))) for x in (task, off))
    assert (batch["image"] != plain["image"]).any() == (place == "host")
    np.testing.assert_array_equal(batch["label"], plain["label"])
    augmented = jax.jit(task.augment)(batch, jax.random.key(0))["image"]
    is_changed = np.abs(augmented - normalize(batch["image"])).max() > 1e-5
    assert is_changed == (place == "device")


def test_another_place_of_randaugment_is_refused(tree):
    message = "augment.randaugment_on is 'workers'; use device or host"
    with pytest.raises(ConfigError, match=message):
        create(tree, **{"augment.randaugment_on": "workers"})


def test_another_exif_setting_is_refused(tree):
    with pytest.raises(ConfigError, match="data.exif is 'no'; use ignored or applied"):
        create(tree, **{"data.exif": "no"})


def test_recipes_without_the_settings_mean_what_they_meant(tree):
    config = folder.get_config().to_dict()
    del config["data"]["exif"], config["augment"]["randaugment_on"]
    config["data"]["data_dir"] = str(tree)
    run, rest = RunSettings.split(config)
    task = tasks.create_task(run.task, rest, batch_size=4, seed=0)
    assert task.description["input"]["exif"] == "ignored"
    assert "on the device" in task.facts()["RandAugment"]
