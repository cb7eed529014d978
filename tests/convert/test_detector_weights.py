"""Checkpoints of mmdetection, there and back, and backbones of ImageNet."""

import logging
import pickle
import zipfile

import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import pretrained
from litv2_jax.convert.identify import recognize_variant
from litv2_jax.convert.torch_file import read_checkpoint, write_torch_checkpoint
from litv2_jax.inference import Predictor
from tests.convert.test_apply import abstract, torch_shapes
from tests.models import test_detectors
from tests.models.detection import TINY
from tests.reference import abstract_model, make_weights, read_json

NAMES = {
    kind: read_json(f"dense/{kind.split('_')[0].replace('net', '')}_names_tiny.json")
    for kind in ("retinanet", "mask_rcnn")
}
OPTIONS = ["--num-heads", "1", "2", "4", "8", "--alpha", "0.9"]
DENSE = {
    "retinanet": {"fpn_dim": 256, "head_dim": 256, "num_convs": 4},
    "mask_rcnn": {
        "fpn_dim": 256,
        "head_dim": 256,
        "num_convs": 4,
        "hidden_dim": 1024,
    },
}


def convert(*arguments) -> None:
    convert_torch_weights.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=["retinanet", "mask_rcnn"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def published(kind, tmp_path_factory):
    """A file as mmdetection writes it, of the tiny model."""
    path = tmp_path_factory.mktemp("published") / "tiny.pth"
    write_torch_checkpoint(path, make_weights(NAMES[kind]["tiny"]), "state_dict")
    return path


def test_names_and_shapes_are_those_of_mmdetection(kind):
    ours = torch_shapes(abstract(f"{kind}_litv2_s", **TINY))
    assert ours == {n: tuple(shape) for n, shape in NAMES[kind]["tiny"].items()}


@pytest.mark.parametrize("name", test_detectors.NAMES)
def test_published_variants_are_recognised(name):
    """Windows do not show in shapes: the first name is that of windows of 2."""
    shapes = torch_shapes(abstract_model(name))
    first = name.removesuffix("_window4")
    assert recognize_variant(shapes) == first
    names = read_json("dense/det_names_smb.json")[first.replace("_litv2", "")]
    assert shapes == {n: tuple(shape) for n, shape in names.items()}


def test_a_published_file_is_converted_and_back(kind, published, tmp_path, capsys):
    convert(published, tmp_path / "out", *OPTIONS)
    output = capsys.readouterr().out
    assert "fpn/outputs/3/kernel" in output

    sizes = pretrained.describe(tmp_path / "out")["model"]
    assert sizes["name"] == f"{kind}_litv2_s"
    assert {key: sizes[key] for key in DENSE[kind]} == DENSE[kind]
    assert sizes["num_classes"] == 80
    convert(tmp_path / "out", tmp_path / "back.pth", "--to-torch")
    assert read_checkpoint(tmp_path / "back.pth", "state_dict").arrays
    before = litv2_jax.read_torch_checkpoint(published)
    after = litv2_jax.read_torch_checkpoint(tmp_path / "back.pth")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_new_heads_are_made_for_other_classes(kind, published, tmp_path, capsys):
    convert(published, tmp_path / "out", *OPTIONS, "--num-classes", 7)
    assert "The head is new: for 7 classes instead of the file's 80" in (
        capsys.readouterr().out
    )
    assert pretrained.describe(tmp_path / "out")["model"]["num_classes"] == 7


def test_weights_of_imagenet_fill_the_backbone(kind, tmp_path, caplog):
    path = tmp_path / "tiny.pth"
    write_torch_checkpoint(path, make_weights(torch_shapes(abstract(**TINY))))
    sizes = {**TINY, "fpn_dim": 8, "head_dim": 8, "num_classes": 3}
    with caplog.at_level(logging.WARNING):
        model = litv2_jax.create_model(
            f"{kind}_litv2_s", rngs=nnx.Rngs(3), weights=path, **sizes
        )
    assert "Only the backbone was loaded" in caplog.text
    assert "backbone.norm3 (2 arrays)" in caplog.text
    assert "neck (" in caplog.text
    head = {"retinanet": "bbox_head (", "mask_rcnn": "roi_head ("}[kind]
    assert head in caplog.text
    file = litv2_jax.read_torch_checkpoint(path)
    after = litv2_jax.to_torch_state_dict(model)
    name = "layers.2.blocks.1.attn.l_kv.weight"
    np.testing.assert_array_equal(after[f"backbone.{name}"], file[name])


def test_other_models_and_sizes_are_refused(kind, published):
    other = {"retinanet": "mask_rcnn", "mask_rcnn": "retinanet"}[kind]
    for name, options, message in (
        ("litv2_s", TINY, "file is that of a segmentation or detection model"),
        ("semantic_fpn_litv2_s", TINY, "or another one"),
        (f"{other}_litv2_s", TINY, "or another one"),
        (f"{kind}_litv2_s", {}, "Likely cause: another variant"),
        (
            f"{kind}_litv2_s",
            {**TINY, "num_classes": 20},
            "a head for 80 classes, the model one for 20",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            litv2_jax.load_torch_weights(abstract(name, **options), published)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file as large as the published ones, without the settings of its run."""
    path = tmp_path_factory.mktemp("large") / "plain.pth"
    names = read_json("dense/det_names_smb.json")["retinanet_s"]
    write_torch_checkpoint(path, make_weights(names), "state_dict")
    return path


def write_with_meta(path, plain, meta):
    """Adds what mmcv and mmengine save beside the weights."""
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                # {..., "meta": meta}: the pickle ends with its dictionary and STOP.
                item_bytes = pickle.dumps({"meta": meta}, 2)[2:-1]
                items = item_bytes[item_bytes.index(b"}") + 1 :]
                data = data[:-1] + items + pickle.STOP
            target.writestr(item.filename.replace("plain/", f"{path.stem}/"), data)


@pytest.mark.parametrize("key", ["exp_name", "experiment_name"])
def test_the_run_tells_the_windows(key, large, tmp_path, capsys):
    """mmdetection 2.x calls it by the first name, 3.x by the second."""
    meta = {key: "retinanet_litv2_s_fpn_1x_coco_ws_4.py", "epoch": 12}
    write_with_meta(tmp_path / "x.pth", large, meta)
    convert(tmp_path / "x.pth", tmp_path / "out")
    assert "windows are 4" in capsys.readouterr().out
    model = pretrained.describe(tmp_path / "out")["model"]
    assert model["name"] == "retinanet_litv2_s_window4"


def test_unknown_windows_are_announced(large, tmp_path, capsys):
    convert(large, tmp_path / "out")
    output = capsys.readouterr().out
    assert "Shapes do not tell the windows" in output
    assert "--model retinanet_litv2_s_window4" in output
    predictor = Predictor(tmp_path / "out")
    assert predictor.task == "detection"
    assert predictor.class_names[:2] == ["person", "bicycle"]
