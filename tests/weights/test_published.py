"""Published weights are named wherever weights are, and are those of one model."""

import dataclasses
import re
import types
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import predict, visualize
from litv2_jax.convert.identify import architecture_of
from litv2_jax.convert.torch_file import read_torch_checkpoint, write_torch_checkpoint
from litv2_jax.export import main as export
from litv2_jax.models.families import CLASSIFIER
from litv2_jax.models.family import find_family, list_all_models
from litv2_jax.settings import ConfigError
from litv2_jax.training.begin import open_initial_weights
from litv2_jax.training.dry_run import describe_run
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.weights import explain_download, open_weights, parse_weights
from litv2_jax.weights.cache import cache_folder
from litv2_jax.weights.published import PUBLISHED, find_published
from tests.reference import GOLDEN
from tests.releases import NANO as NANO_CONFIG
from tests.releases import releases
from tests.training.toy import Toy, toy_run

__all__ = ["releases"]
NANO = GOLDEN / "litv2_tiny_checkpoint.pth"


def configure(name):
    model = PUBLISHED[name].model
    return find_family(model).configs[model].backbone


def test_every_model_has_one_file():
    assert len(PUBLISHED) == 26
    models = [file.model for file in PUBLISHED.values()]
    assert sorted(models) == sorted(set(list_all_models()))
    assert [name for name in PUBLISHED if PUBLISHED[name].name != name] == []


def test_alphas_are_those_of_the_names():
    low_heads = {"0": 0, "0.2": 2, "0.4": 4, "0.5": 6, "0.7": 8, "0.9": 10, "1": 12}
    for alpha, count in low_heads.items():
        config = configure(f"alpha_{alpha}")
        assert config.alpha == float(alpha)
        # Of 12 heads of 32 channels; the last stage has plain attention.
        assert architecture_of(config).low_dims == (-1, -1, 32 * count, 768)


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_windows_are_those_of_the_names(kind):
    for ending, window in (("", 2), ("_ws_4", 4)):
        config = configure(f"{kind}_litv2_m_fpn_1x_coco{ending}")
        assert config.window_sizes == (0, 0, window, 1)


def test_names_of_files_and_of_models_mean_the_same():
    file = PUBLISHED["alpha_0.2"]
    assert find_published("published:alpha_0.2") is file
    assert find_published("published:litv2_s_alpha0.2") is file
    assert find_published("published", "litv2_s_alpha0.2") is file


@pytest.mark.parametrize(
    ("weights", "model", "message"),
    [
        ("published", None, "does not say of which model .* published:litv2_s. `pyth"),
        ("published", "depth", "There are no published weights of 'depth'. `python -m"),
        ("published:litv2_s.pth", None, "Did you mean published:litv2_s?"),
        ("published:", "litv2_s", "There are no published weights of ''. `python"),
    ],
)
def test_other_names_are_refused(weights, model, message):
    with pytest.raises(ConfigError, match=message):
        open_weights(weights, model=model)


def test_a_path_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for weights in (Path("published"), Path("published:litv2_s"), "./published"):
        with pytest.raises(ConfigError, match="There is no "):
            open_weights(weights)
    assert parse_weights("./published", "--weights") == str(tmp_path / "published")
    assert parse_weights("published", "--weights") == "published"
    assert parse_weights("published:x", "--weights") == "published:x"


def test_recipes_name_them(tmp_path, monkeypatch):
    from configs import imagenet

    monkeypatch.chdir(tmp_path)
    expected = {"published": "published", "runs/s": str(tmp_path / "runs" / "s")}
    for weights, parsed in (expected | {"": ""}).items():
        config = imagenet.get_config()
        config.weights = weights
        assert RunSettings.split(config.to_dict())[0].weights == parsed


def test_a_run_asks_for_those_of_its_model():
    run = Run(Toy(), toy_run(weights="published"))
    checkpoints = types.SimpleNamespace(steps=list)
    for begin in (
        lambda: open_initial_weights(run, checkpoints),
        lambda: describe_run(run.task, run.settings),
    ):
        with pytest.raises(ConfigError, match="no published weights of 'toy'"):
            begin()


@pytest.mark.parametrize("weights", ["published", "published:nano"])
def test_create_model_takes_them(releases, weights):
    model = litv2_jax.create_model("litv2_nano", rngs=nnx.Rngs(0), weights=weights)
    arrays = litv2_jax.to_torch_state_dict(model)
    expected = read_torch_checkpoint(NANO)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_predictor_takes_them(releases):
    predictor = litv2_jax.Predictor.load("published:nano")
    assert predictor.class_names == [f"class {k}" for k in range(10)]
    with pytest.raises(ConfigError, match="does not say of which model"):
        litv2_jax.Predictor.load("published")


@pytest.mark.parametrize(
    "run",
    [
        lambda weights: predict.main(["x.png", "--weights", weights]),
        lambda weights: visualize.main(["offsets", "x.png", "--weights", weights]),
        lambda weights: export(["out", "--weights", weights]),
        lambda weights: convert_torch_weights.main([weights, "out"]),
        lambda weights: convert_torch_weights.main([weights, "o.pth", "--to-torch"]),
    ],
    ids=["predict", "visualize", "export", "convert", "convert back"],
)
def test_commands_take_them(releases, run, tmp_path, monkeypatch):
    """All of them ask the server, which does not have this file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="v1.0/litv2_m.pth cannot be downloaded"):
        run("published:litv2_m")


def test_they_are_converted(releases, tmp_path, capsys):
    convert_torch_weights.main(["published:nano", str(tmp_path / "w")])
    assert "litv2_nano (num_classes 10, embed_dim 8" in capsys.readouterr().out
    assert open_weights(tmp_path / "w").description["model"]["name"] == "litv2_nano"


def test_other_windows_are_said(releases, monkeypatch):
    """Both detectors have the same arrays."""
    config = dataclasses.replace(NANO_CONFIG.backbone, window_sizes=(0, 0, 4, 1))
    config = dataclasses.replace(NANO_CONFIG, backbone=config)
    monkeypatch.setitem(CLASSIFIER.configs, "litv2_nano_window4", config)
    for model, count in (("litv2_nano", 0), ("litv2_nano_window4", 1), ("x", 0)):
        notes = open_weights("published:nano", model=model).notes
        assert len(notes) == count
    expected = r"with windows \(0, 0, 2, 1\), but litv2_nano_window4 has \(0, 0, 4, 1\)"
    notes = open_weights("published:nano", model="litv2_nano_window4").notes
    assert re.search(expected, notes[0])


def test_another_model_under_the_name_is_refused(releases, tmp_path):
    arrays = read_torch_checkpoint(NANO)
    arrays = {n: x for n, x in arrays.items() if ".blocks.1." not in n}
    write_torch_checkpoint(tmp_path / "other.pth", arrays)
    releases.files["/v9/nano.pth"] = (tmp_path / "other.pth").read_bytes()
    with pytest.raises(ConfigError) as error:
        open_weights("published:nano")
    assert re.search(
        r"nano.pth is not the published nano: .*depths \(1, 1, 2, 1\).* but its arrays "
        r"are .*depths \(1, 1, 1, 1\).* fetch it again",
        str(error.value),
    )


def test_damage_is_found_by_the_reader(releases):
    """What was damaged before it was recorded is not read as weights."""
    data = releases.files["/v9/nano.pth"]
    releases.files["/v9/nano.pth"] = data[: len(data) // 2]
    with pytest.raises(ValueError, match="nano.pth is damaged or truncated"):
        open_weights("published:nano")


def test_a_dry_run_says_what_would_be_downloaded(releases):
    note = explain_download("published", model="litv2_nano")
    assert note == f"would be downloaded from {releases.address}/v9/nano.pth"
    open_weights("published:nano")
    assert explain_download("published:nano") == ""
    assert explain_download("runs/s") == ""
    assert (cache_folder() / "nano.pth").is_file()
