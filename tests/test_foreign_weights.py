"""What the command line and `create_model` make of files of others."""

import logging
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import load_torch_weights, pretrained
from litv2_jax.convert.torch_file import TorchFileError, write_torch_checkpoint
from litv2_jax.settings import ConfigError
from tests.convert.pickles import save
from tests.convert.test_entries import AVERAGE, WEIGHTS
from tests.convert.test_shards import INDEX, write
from tests.fuzz.mutations import OF_PTH, OF_SAFETENSORS
from tests.reference import GOLDEN

BARE = GOLDEN / "litv2_tiny_checkpoint_bare.pth"
SIZES = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 4)}
SIZES |= {"alpha": 0.5, "num_classes": 10}
OPTIONS = ["--num-heads", "1", "1", "2", "4", "--alpha", "0.5"]


def convert(*arguments) -> None:
    convert_torch_weights.main([str(argument) for argument in arguments])


def create(path, **options):
    return litv2_jax.create_model(
        "litv2_s", rngs=nnx.Rngs(0), weights=path, **SIZES, **options
    )


def arrays_of(model):
    return litv2_jax.to_torch_state_dict(model)


def check_equal(model, expected):
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, expected[name])


# Each that damages most files beyond reading, of either format.
DAMAGE = {
    ".pth": ["cut_start", "cut_middle", "cut_end", "drop_member", "deflate"]
    + ["cut_pickle", "change_memo"],
    ".safetensors": ["cut_start", "cut_middle", "cut_end", "flip_header"]
    + ["change_length", "change_header"],
}


@pytest.mark.parametrize(
    ("ending", "mutation"), [(e, name) for e, names in DAMAGE.items() for name in names]
)
def test_damaged_files_end_in_a_sentence_with_their_name(tmp_path, ending, mutation):
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"damaged{ending}"
    write_torch_checkpoint(whole, WEIGHTS)
    mutate = (OF_PTH if ending == ".pth" else OF_SAFETENSORS)[mutation]
    num_refused = 0
    for seed in range(4):
        path.write_bytes(mutate(whole.read_bytes(), random.Random(seed)))
        try:
            litv2_jax.read_torch_checkpoint(path)
        except TorchFileError:
            num_refused += 1
        else:
            continue
        with pytest.raises(TorchFileError, match=path.name):
            create(path)
        with pytest.raises(SystemExit) as error:
            convert(path, tmp_path / "out")
        message = str(error.value)
        assert str(path) in message
        assert message.isprintable()
        assert not (tmp_path / "out").exists()
    assert num_refused


@pytest.mark.parametrize("entry", [None, "model_ema"])
def test_the_weights_can_be_chosen(tmp_path, capsys, caplog, entry):
    path = save(tmp_path / "x.pth", {"model": WEIGHTS, "model_ema": AVERAGE})
    expected = AVERAGE if entry else WEIGHTS
    check_equal(create(path, entry=entry), expected)
    assert "The weights are those of 'model" in caplog.text

    convert(path, tmp_path / "out", *OPTIONS, *(["--entry", entry] if entry else []))
    assert f"those of '{entry or 'model'}'" in capsys.readouterr().out
    check_equal(create(tmp_path / "out"), expected)


def test_an_entry_of_a_checkpoint_of_ours_is_an_error(tmp_path):
    convert(BARE, tmp_path / "out", *OPTIONS)
    with pytest.raises(ConfigError, match="entry='model' names weights in a PyTorch"):
        create(tmp_path / "out", entry="model")


def test_shards_convert(tmp_path, capsys):
    write(tmp_path, WEIGHTS)
    convert(tmp_path / INDEX, tmp_path / "out", *OPTIONS)
    check_equal(create(tmp_path / "out"), WEIGHTS)
    check_equal(create(tmp_path / INDEX), WEIGHTS)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_torch_checkpoint("~/x.safetensors", WEIGHTS)
    assert (tmp_path / "x.safetensors").is_file()
    convert("~/x.safetensors", "~/out", *OPTIONS)
    check_equal(create("~/out"), WEIGHTS)
    check_equal(create("~/x.safetensors"), WEIGHTS)
    assert pretrained.describe("~/out")["model"]["name"] == "litv2_s"
    monkeypatch.chdir(tmp_path)
    assert litv2_jax.read_torch_checkpoint("x.safetensors").keys() == WEIGHTS.keys()


def without_counts(arrays):
    return {n: x for n, x in arrays.items() if not n.endswith("num_batches_tracked")}


def test_counts_of_batches_may_be_absent(tmp_path, caplog):
    path = tmp_path / "x.safetensors"
    write_torch_checkpoint(path, without_counts(WEIGHTS))
    zeros = {n: np.zeros_like(x) for n, x in WEIGHTS.items()}
    model = create(path)
    check_equal(model, {**zeros, **without_counts(WEIGHTS)})
    assert "no num_batches_tracked: these are set to 0" in caplog.text
    # Nothing is left abstract or counted from elsewhere.
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(nnx.state(model)))
    convert(path, tmp_path / "out", *OPTIONS)


def test_some_counts_of_batches_must_not_be_absent():
    arrays = dict(WEIGHTS)
    name = next(n for n in arrays if n.endswith("num_batches_tracked"))
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} .*: not in the file"):
        load_torch_weights(create(BARE), arrays)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(2**40), "values out of the range of int32"),
        (np.array(1.0), "float64 where int32 belongs"),
        (np.array(1j), "complex128 where int32 belongs"),
        (np.array(True), "bool where int32 belongs"),
    ],
)
def test_counts_are_whole_and_fit(value, message):
    name = next(n for n in WEIGHTS if n.endswith("num_batches_tracked"))
    with pytest.raises(ValueError, match=message):
        load_torch_weights(create(BARE), {**WEIGHTS, name: value})


def with_settings(**lit):
    return {"model": WEIGHTS, "config": {"MODEL": {"LIT": lit}}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"EMBED_DIM": 10**9}, "EMBED_DIM is 1000000000"),
        ({"EMBED_DIM": 96}, "EMBED_DIM is 96, its arrays show 8"),
        ({"DEPTHS": (10**9,) * 4}, "DEPTHS is"),
        ({"DEPTHS": (9000,) * 4}, "DEPTHS is .*, its arrays show"),
        ({"DEPTHS": "2262"}, "DEPTHS is '2262'"),
        ({"NUM_HEADS": (1, 2)}, "NUM_HEADS is"),
        ({"NUM_HEADS": (1, 2, 3, "\x1b[2J")}, "NUM_HEADS is"),
        ({"LOCAL_WS": (-1, 0, 0, 0)}, "LOCAL_WS is"),
        ({"ALPHA": float("nan")}, "ALPHA is nan"),
        ({"ALPHA": {"x": 1}}, "ALPHA is"),
    ],
)
@pytest.mark.parametrize(
    "options", [[], ["--num-classes", "7"], ["--model", "semantic_fpn_litv2_s"]]
)
def test_settings_in_a_file_must_be_those_of_its_arrays(
    tmp_path, settings, message, options
):
    """They would otherwise decide how much is made."""
    path = save(tmp_path / "x.pth", with_settings(**settings))
    with pytest.raises(SystemExit, match=message) as error:
        convert(path, tmp_path / "out", *options)
    assert "x.pth is damaged or altered" in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "arrays",
    [
        {"patch_embed.proj.weight": np.ones((), np.float32)},
        {"patch_embed.proj.weight": np.ones((9, 0), np.float32)},
        {**WEIGHTS, "head.weight": np.ones((), np.float32)},
        {**WEIGHTS, "patch_embed.proj.weight": np.ones((10**6, 1), np.float32)},
        {**WEIGHTS, "layers.2.blocks.0.attn.l_q.weight": np.ones((), np.float32)},
        {**WEIGHTS, "\x1b[2J": np.ones(3, np.float32)},
        {f"{i}.weight": np.ones(1, np.float32) for i in range(5000)},
    ],
    ids=range(7),
)
@pytest.mark.parametrize("options", [[], ["--num-classes", "7"]])
def test_arrays_of_any_shape_and_name_end_in_a_sentence(tmp_path, arrays, options):
    path = tmp_path / "x.safetensors"
    write_torch_checkpoint(path, arrays)
    with pytest.raises(SystemExit) as error:
        convert(path, tmp_path / "out", *options, *OPTIONS)
    message = str(error.value)
    assert str(path) in message
    assert all(line.isprintable() for line in message.splitlines())
    assert len(message) < 200_000


@pytest.mark.slow
def test_refusals_are_printed_without_a_traceback(tmp_path):
    """As a user runs it; the status is 1."""
    path = tmp_path / "x.pth"
    path.write_bytes(BARE.read_bytes()[9:])
    result = subprocess.run(
        [sys.executable, "convert_torch_weights.py", path, tmp_path / "out"],
        cwd=GOLDEN.parents[1],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("convert_torch_weights.py: ")
    assert "Traceback" not in result.stderr
    assert f"{path} is neither a PyTorch nor a safetensors file" in result.stderr


def test_what_is_said_in_the_library_is_logged(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    create(save(tmp_path / "x.pth", {"ema": WEIGHTS}))
    assert "'ema', which seem to be an average over the steps" in caplog.text
