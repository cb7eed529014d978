"""Fine-tuning of dense models on one's own data, from the weights of a classifier."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from configs import finetune_detection, finetune_segmentation
from litv2_jax import prepare, tasks
from litv2_jax.layer_groups import layer_groups
from litv2_jax.training.devices import Devices
from litv2_jax.training.dry_run import describe_run
from litv2_jax.training.loop import fit
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.weights import open_weights
from tests.data.annotated import make_pair, write_tree
from tests.data.prepare.test_coco import save_image
from tests.test_finetune import SIZES

COMMON = {"epochs": 2.0, "eval_every_epochs": 2.0, "batch_size": 4}
COMMON |= {"data.num_workers": 0, "optimizer.base_batch_size": 4}
SMALL = {**SIZES, "fpn_dim": 8, "head_dim": 8}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Weights of a classifier of five classes."""
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(3), num_classes=5, **SIZES)
    folder = tmp_path_factory.mktemp("weights") / "hub"
    litv2_jax.save_pretrained(model, folder, class_names=list("abcde"))
    return folder


def begin(config, weights, sizes, **changes):
    """Returns settings and task of a small recipe."""
    config.weights = str(weights)
    config.model.sizes.update(sizes)
    config.optimizer.groups = layer_groups(SIZES["depths"], 0.85)
    config.update_from_flattened_dict({**COMMON, **changes})
    run, rest = RunSettings.split(config.to_dict())
    run.check(num_devices=1)
    task = tasks.create_task(run.task, rest, batch_size=run.batch_size, seed=run.seed)
    return run, task


@pytest.fixture(scope="module")
def segmentation(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    for split, count in (("train", 8), ("val", 2)):
        pairs = {f"{i}": make_pair(48, 60, i, classes=2) for i in range(count)}
        write_tree(folder, split, pairs)
    (folder / "classes.txt").write_text("floor\nwall\nwindow\n")
    changes = {"data.data_dir": str(folder), "data.scale": (80, 48)}
    changes |= {"data.crop_size": 48, "data.ratio": (0.9, 1.2)}
    return begin(finetune_segmentation.get_config("litv2_s"), hub, SMALL, **changes)


@pytest.fixture(scope="module")
def detection(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    categories = [{"id": 3, "name": "cup"}, {"id": 8, "name": "plate"}]
    for split, count in (("train", 8), ("val", 2)):
        images, annotations = [], []
        for i in range(1, 1 + count):
            save_image(folder / split / f"{i}.png", 56, 40 + i)
            images.append({"id": i, "file_name": f"{i}.png"})
            box = [4 + i, 5, 24, 20]
            category = categories[i % 2]["id"]
            annotations.append(
                {"id": i, "image_id": i, "category_id": category, "bbox": box}
            )
        content = {"images": images, "annotations": annotations}
        path = folder / f"{split}.json"
        path.write_text(json.dumps({**content, "categories": categories}))
        options = {"annotations": path, "images": folder / split, "split": split}
        options |= {"name": "objects", "data-dir": folder / "data"}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        prepare.main(["coco", *arguments])
    changes = {"data.data_dir": str(folder / "data"), "data.scale": (64, 64)}
    changes |= {"data.canvases": ((64, 64),)}
    config = finetune_detection.get_config("retinanet_litv2_s")
    return begin(config, hub, {**SMALL, "num_convs": 1}, **changes)


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_a_dry_run_says_what_is_new(name, request, monkeypatch):
    one_device = functools.partial(Devices, jax.devices()[:1])
    monkeypatch.setattr("litv2_jax.training.run.Devices", one_device)
    # The step itself takes long to compile; tests/test_train.py has one of a dry run.
    step = jax.jit(lambda state, batch, key: (state, {}))
    monkeypatch.setattr("litv2_jax.training.run.Run.create_step", lambda *_: step)
    run, task = request.getfixturevalue(name)
    facts = describe_run(task, run)
    assert "nly the backbone" in facts
    assert "8 images to train on" in facts
    assert "learning rate x 0.85" in facts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "classes"),
    [
        ("segmentation", "mIoU", ["floor", "wall", "window"]),
        ("detection", "box_AP", ["cup", "plate"]),
    ],
)
def test_classes_of_ones_own_are_trained_from_a_classifier(
    name, metric, classes, request, hub, tmp_path, capsys
):
    run, task = request.getfixturevalue(name)
    results = fit(task, run, tmp_path / "run", Devices(jax.devices()[:1]))
    assert "nly the backbone" in capsys.readouterr().out
    assert 0 <= results[metric] <= 1
    assert results["num_images"] == 2
    predictor = litv2_jax.Predictor.load(tmp_path / "run")
    assert predictor.class_names == classes
    # BatchNorm of a detector stays that of the classifier.
    before = open_weights(hub).arrays["layers.0.downsample.norm_layer.running_mean"]
    after = predictor.model.backbone.merges[0].norm.mean[...]
    assert np.array_equal(before, after) == (name == "detection")


def test_from_the_same_kind_of_model_only_the_classes_are_new(detection, tmp_path):
    _, task = detection
    sizes = {**SMALL, "num_convs": 1, "num_classes": 7}
    model = litv2_jax.create_model("retinanet_litv2_s", rngs=nnx.Rngs(5), **sizes)
    litv2_jax.save_pretrained(model, tmp_path / "hub")
    options = {**sizes, "num_classes": 2}
    weights = tmp_path / "hub"
    again = litv2_jax.create_model(
        "retinanet_litv2_s", rngs=nnx.Rngs(0), weights=weights, **options
    )
    arrays, others = map(litv2_jax.to_torch_state_dict, (model, again))
    differ = [n for n in arrays if not np.array_equal(arrays[n], others[n])]
    assert differ == ["bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"]
    assert task.description["model"]["num_classes"] == 2
