import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import pretrained
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.predict import predict
from litv2_jax.settings import ConfigError
from tests.convert.test_apply import abstract, torch_shapes
from tests.convert.test_unpickle import Call, write_zip
from tests.reference import GOLDEN, Reference, make_images, make_weights

FULL = GOLDEN / "litv2_tiny_checkpoint.pth"
BARE = GOLDEN / "litv2_tiny_checkpoint_bare.pth"
PREFIXED = GOLDEN / "litv2_tiny_checkpoint_module_prefix.pth"
SIZES = ["--num-heads", "1", "1", "2", "4", "--alpha", "0.5"]


def convert(*arguments) -> None:
    convert_torch_weights.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "arguments",
    [[FULL], [BARE, *SIZES], [PREFIXED, *SIZES], [BARE, "--model", "litv2_s", *SIZES]],
    ids=["full", "bare", "prefixed", "with-model"],
)
def test_golden_checkpoints_are_converted(tmp_path, capsys, arguments):
    source, *options = arguments
    if "--model" in options:
        options += ["--embed-dim", 8, "--depths", 1, 1, 2, 1]
    convert(source, tmp_path / "out", *options)

    output = capsys.readouterr().out
    assert "layers.0.downsample.dconv.weight" in output
    assert "backbone/merges/0/kernel" in output
    assert "107 arrays, 97,266 parameters" in output

    sizes = pretrained.describe(tmp_path / "out")["model"]
    model = litv2_jax.create_model(**sizes, rngs=nnx.Rngs(0), weights=tmp_path / "out")
    photos = ["astronaut_64", "coffee_64"]
    images = make_images("tiny/a9", 2, (64, 64), photos)
    logits = jax.jit(lambda model, x: model(x))(model, images)
    assert Reference("checkpoint_expected").difference("logits", logits) < 2e-5


@pytest.mark.parametrize("source", [BARE, PREFIXED], ids=["bare", "prefixed"])
def test_weights_convert_even_if_the_file_does_not_tell_the_heads(
    tmp_path, capsys, source
):
    convert(source, tmp_path / "out")

    output = capsys.readouterr().out
    assert "num_heads unknown" in output
    assert "Shapes do not tell the number of heads: add --num-heads" in output
    with pytest.raises(ConfigError, match="does not say how many heads"):
        predict(tmp_path / "out", [])
    # Who knows them can use the weights, and none of these is lost.
    model = litv2_jax.create_model(
        "litv2_s",
        rngs=nnx.Rngs(0),
        num_classes=10,
        embed_dim=8,
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 4),
        alpha=0.5,
        weights=tmp_path / "out",
    )
    before = litv2_jax.read_torch_checkpoint(source)
    after = litv2_jax.to_torch_state_dict(model)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_a_part_of_the_sizes_is_not_enough(tmp_path):
    with pytest.raises(SystemExit, match="Shapes do not tell the number of heads"):
        convert(BARE, tmp_path / "out", "--alpha", 0.5)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_way_back_gives_the_same_file(tmp_path, ending):
    convert(FULL, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / f"theirs{ending}", "--to-torch")

    before = litv2_jax.read_torch_checkpoint(FULL)
    after = litv2_jax.read_torch_checkpoint(tmp_path / f"theirs{ending}")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        np.testing.assert_array_equal(array, after[name])


@pytest.mark.parametrize("name", ["litv2_s", "litv2_s_alpha0.5"])
def test_the_variant_is_recognised(tmp_path, capsys, name):
    shapes = torch_shapes(abstract(name))
    arrays = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
    for n in shapes:
        if n.endswith("num_batches_tracked"):
            arrays[n] = np.array(0, np.int64)
    write_torch_checkpoint(tmp_path / "x.safetensors", arrays)

    convert(tmp_path / "x.safetensors", tmp_path / "out")

    output = capsys.readouterr().out
    assert f"{name} (num_classes 1000)" in output
    assert "The 1000 classes are named as those of imagenet" in output
    description = pretrained.describe(tmp_path / "out")
    assert description["model"] == {"name": name, "num_classes": 1000}
    assert description["input"] == {"image_size": 224, "crop": 0.875}
    assert description["class_names"] == "imagenet"


def test_a_new_head_is_announced_and_the_rest_is_kept(tmp_path, capsys):
    convert(FULL, tmp_path / "out", "--num-classes", 7)
    assert "The head is new: for 7 classes instead of the file's 10" in (
        capsys.readouterr().out
    )
    sizes = pretrained.describe(tmp_path / "out")["model"]
    model = litv2_jax.create_model(**sizes, rngs=nnx.Rngs(0), weights=tmp_path / "out")
    arrays = litv2_jax.read_torch_checkpoint(FULL)
    for name, array in litv2_jax.to_torch_state_dict(model).items():
        if not name.startswith("head."):
            np.testing.assert_array_equal(array, arrays[name])
    assert model.head.kernel.shape == (64, 7)
    assert 0.01 < float(model.head.kernel[...].std()) < 0.03


def test_classes_are_named_by_a_file(tmp_path):
    names = [f"kind {k}" for k in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    convert(FULL, tmp_path / "out", "--class-names", tmp_path / "names.txt")
    assert pretrained.describe(tmp_path / "out")["class_names"] == names

    (tmp_path / "names.txt").write_text("cat\ndog")
    with pytest.raises(SystemExit, match="names 2 classes, but the model has 10"):
        convert(FULL, tmp_path / "other", "--class-names", tmp_path / "names.txt")


def other_variant(path):
    shapes = torch_shapes(abstract("litv2_s", depths=(2, 2, 5, 2)))
    write_torch_checkpoint(path, make_weights(shapes))


def truncated(path):
    path.write_bytes(FULL.read_bytes()[:500_000])


def text(path):
    path.write_text("these are not weights\n")


def malicious(path):
    write_zip(path, pickle.dumps(Call(os.system, "touch HACKED"), 2))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (truncated, [], "damaged or truncated"),
        (text, [], "neither a PyTorch nor a safetensors file"),
        (malicious, [], "refused as unsafe: it asks for"),
        (other_variant, ["--model", "litv2_s"], "Likely cause: another variant"),
    ],
)
def test_bad_files_are_refused(tmp_path, monkeypatch, make, arguments, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bad.pth")
    with pytest.raises(SystemExit) as exit_info:
        convert("bad.pth", "out", *arguments)
    assert message in str(exit_info.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_nothing_is_overwritten(tmp_path):
    convert(FULL, tmp_path / "out")
    with pytest.raises(SystemExit, match="is not empty"):
        convert(FULL, tmp_path / "out")
    (tmp_path / "x.pth").write_text("precious")
    with pytest.raises(SystemExit, match="exists already"):
        convert(tmp_path / "out", tmp_path / "x.pth", "--to-torch")
    assert (tmp_path / "x.pth").read_text() == "precious"


def test_the_program_exits_with_a_message_and_without_pytorch(tmp_path):
    """As a user runs it, with PyTorch and TensorFlow made impossible to import."""
    (tmp_path / "bad.pth").write_text("no weights")
    program = (
        "import sys; sys.modules['torch'] = sys.modules['tensorflow'] = None;"
        "sys.argv[0] = 'litv2-convert'; from litv2_jax import convert_torch_weights;"
        "convert_torch_weights.main(sys.argv[1:3]); print('done');"
        "convert_torch_weights.main(sys.argv[3:5])"
    )
    good, bad = [FULL, tmp_path / "out"], [tmp_path / "bad.pth", tmp_path / "out2"]
    command = [sys.executable, "-c", program, *good, *bad]

    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.endswith("done\n")
    assert result.returncode == 1
    assert result.stderr.startswith("litv2-convert: ")
    assert "Traceback" not in result.stderr
