"""Weights of mmsegmentation, and of a classifier in a segmentation model's backbone."""

import logging

import jax
import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import pretrained
from litv2_jax.convert.torch_file import write_torch_checkpoint
from tests.convert.test_apply import abstract, torch_shapes
from tests.models.test_semantic_fpn import REFERENCES, TINY, TOLERANCE
from tests.reference import make_dense_images, make_weights, read_json

NAMES = read_json("dense/semfpn_names.json")
OPTIONS = ["--num-heads", "1", "2", "4", "8", "--alpha", "0.9"]


def convert(*arguments) -> None:
    convert_torch_weights.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as mmsegmentation writes it, of the tiny model."""
    path = tmp_path_factory.mktemp("published") / "tiny.pth"
    write_torch_checkpoint(path, make_weights(NAMES["tiny"]), "state_dict")
    return path


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A classifier's file with the sizes of the tiny model."""
    path = tmp_path_factory.mktemp("imagenet") / "tiny.pth"
    shapes = torch_shapes(abstract(**TINY))
    write_torch_checkpoint(path, make_weights(shapes))
    return path


@pytest.mark.parametrize("variant", ["tiny", "s"])
def test_names_and_shapes_are_those_of_mmsegmentation(variant):
    sizes = TINY if variant == "tiny" else {}
    ours = torch_shapes(abstract("semantic_fpn_litv2_s", **sizes))
    assert ours == {name: tuple(shape) for name, shape in NAMES[variant].items()}


def test_a_published_file_is_converted_and_back(published, tmp_path, capsys):
    convert(published, tmp_path / "out", *OPTIONS)
    output = capsys.readouterr().out
    assert "decode_head.scale_heads.3.4.conv.weight" in output
    assert "head/branches/3/layers/4/conv/kernel" in output

    description = pretrained.describe(tmp_path / "out")
    assert description["class_names"] == "ade20k"
    sizes = description["model"]
    assert (sizes["fpn_dim"], sizes["head_dim"]) == (256, 128)
    model = litv2_jax.create_model(**sizes, rngs=nnx.Rngs(0), weights=tmp_path / "out")
    logits = jax.jit(lambda model, x: model(x))(model, make_dense_images(2, 96, 128))
    logits = logits.transpose(0, 3, 1, 2)
    assert REFERENCES["tiny"].difference("2x96x128/logits", logits) < TOLERANCE

    convert(tmp_path / "out", tmp_path / "back.pth", "--to-torch")
    before = litv2_jax.read_torch_checkpoint(published)
    after = litv2_jax.read_torch_checkpoint(tmp_path / "back.pth")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_published_variants_are_recognised(tmp_path, capsys):
    path = tmp_path / "s.pth"
    write_torch_checkpoint(path, make_weights(NAMES["s"]), "state_dict")
    convert(path, tmp_path / "out")
    assert "semantic_fpn_litv2_s (num_classes 150" in capsys.readouterr().out


def test_a_new_head_is_made_for_other_classes(published, tmp_path, capsys):
    convert(published, tmp_path / "out", *OPTIONS, "--num-classes", 7)
    assert "The head is new: for 7 classes instead of the file's 150" in (
        capsys.readouterr().out
    )
    assert pretrained.describe(tmp_path / "out")["model"]["num_classes"] == 7


def test_weights_of_imagenet_fill_the_backbone(imagenet, caplog):
    model = litv2_jax.create_model("semantic_fpn_litv2_s", rngs=nnx.Rngs(3), **TINY)
    before = litv2_jax.to_torch_state_dict(model)
    with caplog.at_level(logging.WARNING):
        report = litv2_jax.load_torch_weights(model, imagenet)

    assert "Only the backbone was loaded" in caplog.text
    assert "neck (16 arrays), decode_head" in caplog.text
    file = litv2_jax.read_torch_checkpoint(imagenet)
    after = litv2_jax.to_torch_state_dict(model)
    for name, array in after.items():
        is_taken = f"{name.removeprefix('backbone.')}" in file
        expected = file[name.removeprefix("backbone.")] if is_taken else before[name]
        np.testing.assert_array_equal(array, expected)
        assert (name in report.missing) != is_taken
    assert report.unexpected == ["head.bias", "head.weight", "norm.bias", "norm.weight"]


def test_models_are_created_with_the_backbone_of_imagenet(imagenet):
    model = litv2_jax.create_model(
        "semantic_fpn_litv2_s",
        rngs=nnx.Rngs(3),
        weights=imagenet,
        num_classes=5,
        **TINY,
    )
    logits = jax.jit(lambda model, x: model(x))(
        model, np.ones((1, 32, 32, 3), np.float32)
    )
    assert np.isfinite(logits).all()
    file = litv2_jax.read_torch_checkpoint(imagenet)
    ours = litv2_jax.to_torch_state_dict(model)
    name = "layers.2.blocks.1.attn.l_kv.weight"
    np.testing.assert_array_equal(ours[f"backbone.{name}"], file[name])


def test_the_converter_says_what_is_left_to_train(imagenet, tmp_path, capsys):
    sizes = ["--embed-dim", 32, "--depths", 1, 1, 2, 1]
    name = "semantic_fpn_litv2_s"
    convert(imagenet, tmp_path / "out", "--model", name, *sizes, *OPTIONS)
    output = capsys.readouterr().out
    assert "Only the backbone is the file's. New, and to be trained: " in output
    assert "decode_head.conv_seg.weight" in output.split("to be trained: ")[1]
    assert pretrained.describe(tmp_path / "out")["model"]["num_classes"] == 150


def test_a_backbone_of_another_size_is_refused(imagenet):
    model = abstract("semantic_fpn_litv2_s")
    with pytest.raises(ValueError, match="Likely cause: another variant"):
        litv2_jax.load_torch_weights(model, imagenet)


def test_a_classifier_refuses_a_segmentation_model(published):
    with pytest.raises(ValueError, match="file is that of a segmentation"):
        litv2_jax.load_torch_weights(abstract(**TINY), published)
