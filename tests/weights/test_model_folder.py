import json

import pytest
from flax import nnx

import litv2_jax
from litv2_jax.settings import ConfigError
from litv2_jax.weights import open_weights
from tests.weights.places import INPUT, NAMES, SIZES, create, difference


def save(folder, model=None, **options):
    model = model or create()
    litv2_jax.save_pretrained(model, folder, class_names=NAMES, **options)
    return folder


def test_a_folder_describes_its_model(tmp_path):
    folder = save(tmp_path / "hub", input=INPUT)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    description = open_weights(folder).description
    assert description["model"]["name"] == "litv2_s"
    assert description["model"]["depths"] == [1, 1, 1, 1]
    # Those that are as published are not listed.
    assert description["model"].keys() == {"name", "num_classes", "embed_dim", "depths"}
    assert (description["input"], description["class_names"]) == (INPUT, NAMES)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "| classes | 3: cat, dog, fish |" in card


def test_the_arrays_are_those_of_the_original(tmp_path):
    model = create()
    folder = save(tmp_path / "hub", model)
    arrays = litv2_jax.read_torch_checkpoint(folder / "model.safetensors")
    assert arrays["head.weight"].shape == (3, 192)
    other = create(1, weights=folder / "model.safetensors")
    assert not difference(other, model)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("litv2_m", {}),
        ("litv2_s_alpha0.5", {"num_classes": 7}),
        ("semantic_fpn_litv2_s", {**SIZES, "fpn_dim": 64}),
        ("retinanet_litv2_s_window4", {"num_classes": 4}),
    ],
)
def test_sizes_are_read_off_a_model(name, sizes):
    from litv2_jax.models.family import family_of
    from litv2_jax.weights.model_folder import describe_sizes

    model = nnx.eval_shape(
        lambda: litv2_jax.create_model(name, rngs=nnx.Rngs(0), **sizes)
    )
    found = describe_sizes(model, family_of(model))
    assert found.pop("name") == name
    num_classes = found.pop("num_classes")
    assert num_classes == sizes.get("num_classes", num_classes)
    expected = {k: x for k, x in sizes.items() if k not in ("num_classes", "num_heads")}
    assert found == expected


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "x").write_text("precious")
    with pytest.raises(ConfigError, match="exists already: name a folder that does"):
        save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    fused = litv2_jax.fuse_for_inference(create())
    with pytest.raises(ValueError, match="save it before it is fused"):
        save(tmp_path / "hub", fused)
    assert not (tmp_path / "hub").exists()
    hilo = litv2_jax.HiLo(8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="A HiLo is no model of create_model"):
        save(tmp_path / "hub", hilo)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "There is no .*config.json, which would describe"),
        ("{", "config.json cannot be read"),
        ('{"architecture": "litv2"}', "config.json is of another library"),
        ({"format": 9}, "has format 9, but this version"),
        ({"model": {"name": "litv2_s", "depths": [10**9] * 4}}, "does not describe"),
        ({"model": {"name": "litv2_s", "depths": "2262"}}, "does not describe"),
        ({"model": {"name": "resnet"}}, "does not describe"),
    ],
    ids=range(7),
)
def test_descriptions_that_are_wrong_are_refused(tmp_path, change, message):
    path = save(tmp_path / "hub") / "config.json"
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        open_weights(tmp_path / "hub")
