"""What is exported computes the same, in a process without this package."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.augment.normalize import normalize
from litv2_jax.export import main
from litv2_jax.settings import ConfigError
from tests.test_convert_torch_weights import FULL, convert

TINY = {
    "embed_dim": 8,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 4),
    "num_classes": 5,
}
# Reads the inputs that lie in the folder, runs the program, and writes its outputs.
RUN = """
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np

folder = Path(sys.argv[1])
exported = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
weights = []
if (folder / "weights.npz").exists():
    with np.load(folder / "weights.npz") as arrays:
        weights = [[arrays[name] for name in arrays.files]]
run = jax.jit(exported.call)
for path in sorted(folder.glob("inputs*.npz")):
    with np.load(path) as inputs:
        outputs = run(*weights, *[inputs[name] for name in inputs.files])
    np.savez(folder / path.name.replace("inputs", "outputs"), **outputs)
assert not {"litv2_jax", "flax"} & sys.modules.keys()
"""


def create(name="litv2_s", **sizes):
    return litv2_jax.create_model(name, rngs=nnx.Rngs(0), **TINY, **sizes)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def run_elsewhere(folder, *batches):
    """Returns the outputs for batches of inputs, from a process of its own."""
    for i, inputs in enumerate(batches):
        np.savez(folder / f"inputs{i}.npz", *inputs)
    subprocess.run([sys.executable, "-c", RUN, folder], check=True, cwd=folder)
    found = [np.load(folder / f"outputs{i}.npz") for i in range(len(batches))]
    return [{name: arrays[name] for name in arrays.files} for arrays in found]


def assert_same_logits(model, folder, *batches):
    run = jax.jit(lambda model, x: model(x))
    outputs = run_elsewhere(folder, *[[images] for images in batches])
    for images, found in zip(batches, outputs, strict=True):
        assert found.keys() == {"logits"}
        np.testing.assert_allclose(found["logits"], run(model, images), atol=1e-6)


@pytest.mark.slow
def test_features_of_images_of_other_channels_are_exported(tmp_path):
    sizes = {**TINY, "num_classes": 0, "in_chans": 2}
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0), **sizes)
    folder = litv2_jax.export(model, tmp_path / "out", image_size=(32, 40))
    facts = json.loads((folder / "export.json").read_text())
    assert facts["images"]["shape"] == ["b", "32", "40", "2"]
    images = draw(3, 32, 40, 2)
    (found,) = run_elsewhere(folder, [images])
    expected = jax.jit(lambda model, x: model(x))(model, images)
    assert found["features"].shape == (3, 64)
    np.testing.assert_allclose(found["features"], expected, atol=1e-6)
    with pytest.raises(ValueError, match="Images have 2 channels, but ImageNet's"):
        litv2_jax.export(model, tmp_path / "x", image_size=32, normalize=True)


def test_a_classifier_takes_any_batch_of_any_size(tmp_path):
    model = create()
    folder = litv2_jax.export(model, tmp_path / "out", image_size=None)
    assert_same_logits(model, folder, draw(1, 64, 64, 3), draw(3, 32, 96, 3))

    facts = json.loads((folder / "export.json").read_text())
    assert facts["images"]["shape"] == ["b", "32*h", "32*w", "3"]
    assert facts["outputs"] == {"logits": {"shape": ["b", "5"], "type": "float32"}}
    assert facts["platforms"] == ["cpu", "cuda"]


@pytest.mark.slow
def test_a_segmentation_model_takes_images_of_two_sizes(tmp_path):
    model = create("semantic_fpn_litv2_s", fpn_dim=16, head_dim=8)
    folder = litv2_jax.export(model, tmp_path / "out", image_size=None)
    assert_same_logits(model, folder, draw(1, 64, 96, 3), draw(2, 64, 64, 3))


def test_one_file_holds_fused_weights_and_normalizes_pixels(tmp_path):
    model = create()
    folder = litv2_jax.export(
        litv2_jax.fuse_for_inference(model),
        tmp_path / "out",
        image_size=64,
        batch_size=2,
        input_type="uint8",
        normalize=True,
        weights_inside=True,
    )
    assert {path.name for path in folder.iterdir()} == {
        "model.stablehlo",
        "export.json",
    }
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    (found,) = run_elsewhere(folder, [pixels])
    expected = jax.jit(lambda model, x: model(normalize(x)))(model, pixels)
    np.testing.assert_allclose(found["logits"], expected, atol=2e-5)


@pytest.mark.slow
def test_weights_in_bfloat16_are_written_exactly(tmp_path):
    model = litv2_jax.fuse_for_inference(create(dtype=jnp.bfloat16))
    folder = litv2_jax.export(model, tmp_path / "out", image_size=64)
    images = draw(2, 64, 64, 3)
    (found,) = run_elsewhere(folder, [images])
    expected = jax.jit(lambda model, x: model(x))(model, images)
    np.testing.assert_array_equal(found["logits"], expected)


def test_a_detector_is_exported_with_all_that_it_does(tmp_path):
    model = create("retinanet_litv2_s", fpn_dim=16)
    folder = litv2_jax.export(model, tmp_path / "out", image_size=64, batch_size=1)
    images, sizes = draw(1, 64, 64, 3), np.array([[60, 50]], np.int32)
    (found,) = run_elsewhere(folder, [images, sizes, 2 * sizes])
    expected = jax.jit(lambda model, *x: model.detect(*x))(
        model, images, sizes, 2 * sizes
    )
    assert found.keys() == {"boxes", "scores", "labels", "count"}
    for name, array in found.items():
        np.testing.assert_allclose(array, getattr(expected, name), atol=1e-4)


@pytest.mark.slow
def test_the_command_exports_converted_weights(tmp_path, capsys):
    convert(FULL, tmp_path / "weights")
    out = tmp_path / "out"
    main([str(out), "--weights", str(tmp_path / "weights"), "--image-size", "64"])
    assert f"Wrote {out}" in capsys.readouterr().out

    sizes = json.loads((out / "export.json").read_text())["model"]
    model = litv2_jax.create_model(
        **sizes, rngs=nnx.Rngs(0), weights=tmp_path / "weights"
    )
    assert_same_logits(model, out, draw(2, 64, 64, 3))

    with pytest.raises(SystemExit, match="out is not empty: name a folder to create"):
        main([str(out), "--weights", str(tmp_path / "weights")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_type": "uint8"}, "uint8 cannot have been normalized"),
        ({"input_type": "int8"}, "type of the input is 'int8' but must be one of"),
        ({"batch_size": -1}, "A batch of -1 images of size .* must be 1 or more"),
    ],
)
def test_impossible_inputs_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        litv2_jax.export(nnx.eval_shape(create), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused(tmp_path):
    detector = nnx.eval_shape(lambda: create("retinanet_litv2_s", fpn_dim=16))
    with pytest.raises(ConfigError, match="one number and one size of images"):
        litv2_jax.export(detector, tmp_path / "out")
    model = nnx.eval_shape(create)
    with pytest.raises(ValueError, match="A Backbone is only a part of a model"):
        litv2_jax.export(model.backbone, tmp_path / "out")
