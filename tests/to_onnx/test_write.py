"""ONNX Runtime computes what the model does."""

import json

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
from tests.test_export import create, draw

onnx = pytest.importorskip("onnx", reason="pip install 'litv2_jax[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="pip install 'litv2_jax[test]'")


def create_moving(name="litv2_s", **sizes):
    """Returns a model whose token mergings read between pixels and beyond the map."""
    model = create(name, **sizes)
    random = np.random.default_rng(1)
    for merge in model.backbone.merges:
        kernel = merge.offset.kernel
        kernel[...] = jnp.asarray(random.normal(0, 0.5, kernel.shape), jnp.float32)
    return model


def run_model(model, images):
    return jax.jit(lambda model, x: model(x))(model, images)


def run_onnx(folder, images):
    """Returns the outputs by name."""
    path = folder / "model.onnx"
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def test_a_classifier_takes_batches_of_any_number(tmp_path):
    model = create_moving()
    fused = litv2_jax.fuse_for_inference(model)
    folder = litv2_jax.export(
        fused, tmp_path / "out", image_size=(64, 96), format="onnx"
    )
    for count in (1, 3):
        images = draw(count, 64, 96, 3)
        found = run_onnx(folder, images)
        assert found.keys() == {"logits"}
        np.testing.assert_allclose(found["logits"], run_model(model, images), atol=2e-5)

    facts = json.loads((folder / "export.json").read_text())
    assert facts["images"]["shape"] == ["b", "64", "96", "3"]
    assert facts["outputs"] == {"logits": {"shape": ["b", "5"], "type": "float32"}}
    graph = onnx.load(folder / "model.onnx").graph
    operations = [node.op_type for node in graph.node]
    assert {"Gelu", "Softmax", "Conv"} <= set(operations)
    assert not {"Erf", "Exp", "Expand"} & set(operations)
    assert "head.kernel" in {array.name for array in graph.initializer}


@pytest.mark.parametrize(
    "size", [(72, 100), pytest.param((64, 64), marks=pytest.mark.slow)]
)
def test_a_segmentation_model_takes_images_of_a_size(tmp_path, size):
    model = create_moving("semantic_fpn_litv2_s", fpn_dim=16, head_dim=8)
    folder = litv2_jax.export(model, tmp_path / "out", image_size=size, format="onnx")
    images = draw(2, *size, 3)
    logits = run_onnx(folder, images)["logits"]
    assert logits.shape == (2, size[0] // 4, size[1] // 4, 5)
    np.testing.assert_allclose(logits, run_model(model, images), atol=2e-5)


@pytest.mark.slow
def test_retinanet_gives_logits_and_deltas_of_each_level(tmp_path):
    model = create_moving("retinanet_litv2_s", fpn_dim=16)
    folder = litv2_jax.export(
        model, tmp_path / "out", image_size=(64, 96), format="onnx"
    )
    images = draw(2, 64, 96, 3)
    found = run_onnx(folder, images)
    for kind, expected in zip(
        ("logits", "deltas"), run_model(model, images), strict=True
    ):
        for level, x in zip((3, 4, 5, 6, 7), expected, strict=True):
            np.testing.assert_allclose(found.pop(f"{kind}_p{level}"), x, atol=2e-5)
    assert not found


@pytest.mark.slow
def test_mask_rcnn_gives_its_pyramid_and_the_outputs_of_the_rpn(tmp_path):
    model = create_moving("mask_rcnn_litv2_s", fpn_dim=16)
    folder = litv2_jax.export(model, tmp_path / "out", image_size=64, format="onnx")
    images = draw(2, 64, 64, 3)
    found = run_onnx(folder, images)
    for level, x in zip((2, 3, 4, 5, 6), run_model(model, images), strict=True):
        logits, deltas = model.rpn(x)
        np.testing.assert_allclose(found.pop(f"level_p{level}"), x, atol=2e-5)
        np.testing.assert_allclose(found.pop(f"rpn_logits_p{level}"), logits, atol=2e-5)
        np.testing.assert_allclose(found.pop(f"rpn_deltas_p{level}"), deltas, atol=2e-5)
    assert not found


@pytest.mark.slow
def test_pixels_are_normalized_inside(tmp_path):
    model = create_moving()
    folder = litv2_jax.export(
        model,
        tmp_path / "out",
        image_size=64,
        batch_size=2,
        input_type="uint8",
        normalize=True,
        format="onnx",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = jax.jit(lambda model, x: model(normalize(x)))(model, pixels)
    found = run_onnx(folder, pixels)["logits"]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_the_command_exports_converted_weights(tmp_path, capsys):
    convert(FULL, tmp_path / "weights")
    command = [
        *(str(tmp_path / "out"), "--weights", str(tmp_path / "weights")),
        *("--image-size", "64", "--format", "onnx"),
    ]
    with pytest.raises(SystemExit, match="--platforms are options of StableHLO"):
        main([*command, "--platforms", "cpu"])
    main(command)
    assert f"Wrote {tmp_path / 'out'}" in capsys.readouterr().out

    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    model = litv2_jax.create_model(
        **facts["model"], rngs=nnx.Rngs(0), weights=tmp_path / "weights"
    )
    images = draw(2, 64, 64, 3)
    found = run_onnx(tmp_path / "out", images)["logits"]
    np.testing.assert_allclose(found, run_model(model, images), atol=2e-5)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {"image_size": None}, "ONNX is written for one size of images"),
        ({"dtype": jnp.bfloat16}, {}, "computes in bfloat16, which ONNX Runtime lacks"),
        ({}, {"format": "tflite"}, "no format 'tflite'; there are stablehlo and onnx"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, sizes, options, message):
    model = nnx.eval_shape(lambda: create(**sizes))
    with pytest.raises(ConfigError, match=message):
        litv2_jax.export(model, tmp_path / "out", **{"format": "onnx", **options})
    assert not (tmp_path / "out").exists()


def test_a_missing_onnx_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'litv2_jax\[onnx\]'"):
        litv2_jax.export(nnx.eval_shape(create), tmp_path / "out", format="onnx")
