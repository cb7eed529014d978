"""Models without a head, or for images of other channels, from published weights."""

import jax
import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import pretrained
from litv2_jax.augment.normalize import normalize
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.settings import ConfigError
from litv2_jax.tasks.model_settings import ModelSettings
from litv2_jax.weights import open_weights
from tests.weights.places import INPUT, SIZES, create, difference, keep_everywhere

PLACES = ["checkpoint", "run", "x.pth", "x.safetensors", "hub"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return keep_everywhere(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    """A model without classes, kept as a file and as a folder."""
    folder = tmp_path_factory.mktemp("headless")
    model = create(num_classes=0)
    arrays = litv2_jax.to_torch_state_dict(model)
    write_torch_checkpoint(folder / "x.pth", arrays)
    litv2_jax.save_pretrained(model, folder / "hub", input=INPUT)
    convert_torch_weights.main([str(folder / "x.pth"), str(folder / "checkpoint")])
    return folder


def draw_images(channels: int = 3) -> np.ndarray:
    shape = (2, 40, 36, channels)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@jax.jit
def run(model, images):
    return model(images)


@jax.jit
def run_features(model, images):
    return model.forward_head(model.forward_features(images), pre_logits=True)


@pytest.fixture(scope="module")
def model():
    return create()


@pytest.mark.parametrize("place", PLACES)
def test_a_head_that_is_not_wanted_is_left_out_and_it_is_said(
    places, model, place, caplog
):
    features = create(1, weights=places[place], num_classes=0)
    assert features.head is None
    assert difference(features, model) == []
    assert (
        "The head (head.bias, head.weight), for 3 classes, is left out: the model has "
        "num_classes=0 and returns features." in caplog.text
    )
    images = draw_images()
    expected = run_features(model, images)
    np.testing.assert_allclose(run(features, images), expected, atol=1e-5)
    assert expected.shape == (2, 192)


@pytest.mark.parametrize("place", ["checkpoint", "x.pth", "hub"])
def test_weights_without_a_head_get_a_new_one_only_if_asked(headless, place, caplog):
    weights = headless / place
    assert open_weights(weights).description["model"]["num_classes"] == 0
    assert create(1, weights=weights, num_classes=0).head is None
    assert "left out" not in caplog.text
    whole = create(1, weights=weights, num_classes=4)
    assert whole.head.kernel.shape == (192, 4)
    assert difference(create(num_classes=0), whole) == []
    assert f"The head (head/bias, head/kernel) is new: {weights} has non" in caplog.text
    with pytest.raises(ValueError, match="num_classes=0"):
        litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0), weights=weights, **SIZES)


def test_a_head_of_another_width_is_damage_and_not_left_out(model):
    arrays = litv2_jax.to_torch_state_dict(model)
    arrays["head.weight"] = arrays["head.weight"][:, :-1]
    with pytest.raises(ValueError, match="head.weight .*: not in the model"):
        litv2_jax.load_torch_weights(create(num_classes=0), arrays)


def test_features_are_not_classes(headless, tmp_path):
    predictor = litv2_jax.Predictor.load(headless / "hub")
    with pytest.raises(ConfigError, match="has no classes .* and returns features"):
        predictor.classify([np.zeros((40, 40, 3), np.uint8)])
    card = (headless / "hub" / "README.md").read_text()
    assert "| classes | none: the model returns features |" in card
    assert "pipeline_tag: image-feature-extraction" in card
    predictor.save_pretrained(tmp_path / "again")
    assert open_weights(tmp_path / "again").description["class_names"] == []


def test_the_converter_leaves_out_the_head_and_adapts_the_input(places, tmp_path):
    options = ["--num-classes", "0", "--in-chans", "2"]
    convert_torch_weights.main([str(places["x.pth"]), str(tmp_path / "out"), *options])
    sizes = pretrained.describe(tmp_path / "out")["model"]
    assert (sizes["num_classes"], sizes["in_chans"]) == (0, 2)
    model = create(weights=tmp_path / "out", num_classes=0, in_chans=2)
    assert run(model, draw_images(2)).shape == (2, 192)


def expect_kernel(model, in_chans: int) -> np.ndarray:
    """As timm's `adapt_input_conv`, written out."""
    kernel = np.asarray(model.backbone.patch_embedding.project.kernel[...])
    red, green, blue = (kernel[:, :, i : i + 1] for i in range(3))
    if in_chans == 1:
        return red + green + blue
    colors = [red, green, blue, red, green][:in_chans]
    return np.concatenate(colors, 2) * (3 / in_chans)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_the_first_layer_is_adapted_as_in_timm(places, model, place, in_chans, caplog):
    other = create(1, weights=places[place], in_chans=in_chans)
    kernel = other.backbone.patch_embedding.project.kernel[...]
    np.testing.assert_allclose(kernel, expect_kernel(model, in_chans), rtol=1e-6)
    assert difference(other, model) == ["patch_embed.proj.weight"]
    text = f"The first layer is adapted from 3 channels to {in_chans}"
    assert caplog.text.count(text) == 1


def test_a_gray_image_counts_as_three_equal_channels(places, model):
    gray = draw_images(1)
    other = create(weights=places["hub"], in_chans=1)
    expected = run(model, gray.repeat(3, -1))
    np.testing.assert_allclose(run(other, gray), expected, atol=1e-4)


@pytest.mark.parametrize("place", ["checkpoint", "x.pth"])
def test_dense_models_adapt_the_backbone(places, model, place, caplog):
    dense = litv2_jax.create_model(
        "semantic_fpn_litv2_s",
        rngs=nnx.Rngs(0),
        num_classes=2,
        weights=places[place],
        in_chans=4,
        fpn_dim=8,
        head_dim=8,
        **SIZES,
    )
    kernel = dense.backbone.patch_embedding.project.kernel[...]
    np.testing.assert_allclose(kernel, expect_kernel(model, 4), rtol=1e-6)
    assert "The first layer is adapted from 3 channels to 4" in caplog.text


def test_other_channels_are_kept_and_cannot_be_adapted_again(tmp_path):
    model = create(in_chans=4)
    litv2_jax.save_pretrained(model, tmp_path / "hub")
    described = open_weights(tmp_path / "hub").description["model"]
    assert described["in_chans"] == 4
    again = create(1, weights=tmp_path / "hub", in_chans=4)
    assert difference(again, model) == []
    for in_chans in (1, 3):
        with pytest.raises(ValueError, match="in_chans=4"):
            create(1, weights=tmp_path / "hub", in_chans=in_chans)
    write_torch_checkpoint(tmp_path / "x.pth", litv2_jax.to_torch_state_dict(model))
    assert open_weights(tmp_path / "x.pth").description["model"]["in_chans"] == 4


def test_what_reads_rgb_images_refuses_other_channels(tmp_path):
    litv2_jax.save_pretrained(create(in_chans=1), tmp_path / "hub")
    with pytest.raises(ConfigError, match="for images of 1 channels, but .* as RGB"):
        litv2_jax.Predictor.load(tmp_path / "hub")
    with pytest.raises(ValueError, match="Images have 1 channels, but ImageNet's"):
        normalize(np.zeros((1, 32, 32, 1), np.uint8))
    settings = ModelSettings("litv2_s", 0.1, "float32", {"in_chans": 1})
    with pytest.raises(ConfigError, match="sizes.in_chans is 1, but data sets give RG"):
        settings.check("classification")
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 1\], not \[2, 40, 36, 3"):
        create(in_chans=1)(draw_images())
