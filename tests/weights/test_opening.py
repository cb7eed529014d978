"""Whatever keeps weights, everything that takes weights takes them."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.weights import open_weights
from tests.weights.places import NAMES, SIZES, create, difference, keep_everywhere

PLACES = ["checkpoint", "run", "x.pth", "x.safetensors", "hub"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return keep_everywhere(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def model():
    return create()


def load(path, model, **options):
    return open_weights(path).load(model, *split_state(model), **options)


@pytest.mark.parametrize("place", PLACES)
def test_create_model_takes_them(places, model, place):
    assert not difference(create(1, weights=places[place]), model)


@pytest.mark.parametrize("place", PLACES)
def test_other_classes_get_a_new_head_and_it_is_said(places, model, place, caplog):
    other = create(1, weights=places[place], num_classes=5)
    assert other.head.kernel.shape == (192, 5)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(nnx.state(other)))
    np.testing.assert_array_equal(
        other.backbone.merges[0].kernel[...], model.backbone.merges[0].kernel[...]
    )
    assert (
        "The head (head/bias, head/kernel) is new: for 5 classes instead of the 3 of "
        f"{places[place]}" in caplog.text
    )


@pytest.mark.parametrize("place", PLACES)
def test_kept_heads_must_have_as_many_classes(places, place):
    with pytest.raises(ValueError, match="head"):
        load(places[place], create(1, num_classes=5), head="keep")
    # Nobody has asked for so many.
    with pytest.raises(ValueError, match="head"):
        litv2_jax.create_model(
            "litv2_s", rngs=nnx.Rngs(0), weights=places[place], **SIZES
        )


@pytest.mark.parametrize("place", ["checkpoint", "hub"])
def test_as_many_classes_of_other_names_get_a_new_head(places, model, place):
    other = create(1)
    loaded = load(places[place], other, class_names=["cow", "dog", "fish"])
    assert loaded.new == ["head/bias", "head/kernel"]
    assert "the classes are others than those of" in loaded.notes[0]
    np.testing.assert_array_equal(
        loaded.params["head"]["kernel"], other.head.kernel[...]
    )
    for options in ({"class_names": NAMES}, {"head": "keep", "class_names": ["x"] * 3}):
        loaded = load(places[place], other, **options)
        assert not loaded.new
        np.testing.assert_array_equal(
            loaded.params["head"]["kernel"], model.head.kernel[...]
        )


@pytest.mark.parametrize("place", ["checkpoint", "x.pth", "hub"])
def test_segmentation_takes_the_backbone(places, model, place):
    dense = nnx.eval_shape(
        lambda: litv2_jax.create_model(
            "semantic_fpn_litv2_s", rngs=nnx.Rngs(0), num_classes=2, **SIZES
        )
    )
    loaded = load(places[place], dense)
    assert "nly the backbone" in " ".join(loaded.notes)
    assert not [path for path in loaded.new if path.startswith("backbone/")]
    assert loaded.new
    np.testing.assert_array_equal(
        loaded.params["backbone"]["merges"][0]["kernel"],
        model.backbone.merges[0].kernel[...],
    )


@pytest.mark.parametrize("place", PLACES)
def test_other_sizes_are_refused(places, place):
    with pytest.raises(ValueError, match="not fit the model"):
        create(1, weights=places[place], depths=(1, 1, 2, 1), num_classes=5)


@pytest.mark.parametrize("place", ["run", "hub"])
def test_a_predictor_knows_the_classes(places, place):
    predictor = litv2_jax.Predictor.load(places[place])
    assert predictor.class_names == NAMES


def test_nothing_there_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, reason in (("absent", "There is no "), ("empty", "no checkpoint in")):
        with pytest.raises(ConfigError, match=reason) as error:
            open_weights(tmp_path / name)
        assert re.search("a run, .* or a .pth or .safetensors", str(error.value))
