"""Safetensors files in shards, by the index that names them."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.errors import TorchFileError
from tests.convert.test_entries import AVERAGE, WEIGHTS, check, put

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write(folder, arrays, change=lambda weight_map: weight_map):
    """Writes two shards and their index, and returns its path."""
    names = sorted(arrays)
    weight_map = {}
    for shard, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        safetensors.numpy.save_file({n: arrays[n] for n in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    contents = {"metadata": {"total_size": 1}, "weight_map": change(weight_map)}
    (folder / INDEX).write_text(json.dumps(contents, indent=2))
    return folder / INDEX


@pytest.mark.parametrize("prefix", ["", "module."])
def test_shards_are_read_by_their_index(tmp_path, prefix):
    assert check(write(tmp_path, put(prefix, WEIGHTS)), WEIGHTS) == []


def test_averages_in_shards_can_be_chosen(tmp_path):
    path = write(tmp_path, {**put("model.", WEIGHTS), **put("model_ema.", AVERAGE)})
    (note,) = check(path, WEIGHTS)
    assert "also has 'model_ema'" in note
    check(path, AVERAGE, "model_ema")


def test_shards_may_be_links_as_in_a_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write(blobs, WEIGHTS)
    for name in (*SHARDS, INDEX):
        os.symlink(blobs / name, snapshot / name)
    check(snapshot / INDEX, WEIGHTS)


def test_missing_shards_are_named(tmp_path):
    path = write(tmp_path, WEIGHTS)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(TorchFileError, match=f"shards are missing: {SHARDS[1]}"):
        read_torch_checkpoint(path)


def test_a_damaged_shard_is_named(tmp_path):
    path = write(tmp_path, WEIGHTS)
    shard = tmp_path / SHARDS[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(TorchFileError, match=f"its shard {SHARDS[1]} is refused.*dama"):
        read_torch_checkpoint(path)


OUTSIDE = ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "..", ".", ""]
OUTSIDE += ["..\\x.safetensors", "C:x.safetensors", "x\0", 3, None, ["x"], {"x": 1}]


@pytest.mark.parametrize("name", OUTSIDE)
def test_shards_lie_beside_the_index(tmp_path, name):
    """Whatever it says, no other file is opened."""
    safetensors.numpy.save_file(WEIGHTS, tmp_path / "x.safetensors")
    (tmp_path / "folder").mkdir()
    path = write(
        tmp_path / "folder", WEIGHTS, lambda names: {**names, "head.bias": name}
    )
    with pytest.raises(TorchFileError, match="lie in the folder of the index"):
        read_torch_checkpoint(path)


def test_index_and_shards_have_the_same_names(tmp_path):
    path = write(tmp_path, WEIGHTS, lambda names: {**names, "more": SHARDS[0]})
    with pytest.raises(TorchFileError, match="it lacks arrays .*: more"):
        read_torch_checkpoint(path)

    def move(names):
        return {**names, "head.bias": SHARDS[names["head.bias"] == SHARDS[0]]}

    with pytest.raises(TorchFileError, match=r"arrays that the index .*: head\.bias"):
        read_torch_checkpoint(write(tmp_path, WEIGHTS, move))

    def drop(names):
        return {n: shard for n, shard in names.items() if n != "head.bias"}

    with pytest.raises(TorchFileError, match=r"does not look for in it: head\.bias"):
        read_torch_checkpoint(write(tmp_path, WEIGHTS, drop))


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": 3}', "{"]
    + ['{"weight_map": {"a": ' + "[" * 100_000, '{"a":' * 5000, "", "\x1b[2J", "{\xff"],
)
@pytest.mark.parametrize("name", [INDEX, "weights.json", "weights.pth"])
def test_other_json_is_refused(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        TorchFileError, match="weight_map|neither|is empty|no index"
    ) as error:
        read_torch_checkpoint(path)
    assert path.name in str(error.value)
    assert str(error.value).isprintable()


def test_a_long_index_is_refused(tmp_path):
    path = tmp_path / INDEX
    path.write_text(json.dumps({"weight_map": {}, "x": "y" * 5 * 2**20}))
    with pytest.raises(TorchFileError, match="where at most 4,194,304 are read"):
        read_torch_checkpoint(path)


def test_one_shard_alone_is_what_it_is(tmp_path):
    write(tmp_path, WEIGHTS)
    arrays = read_torch_checkpoint(tmp_path / SHARDS[0])
    assert 0 < len(arrays) < len(WEIGHTS)
    for n, array in arrays.items():
        np.testing.assert_array_equal(array, WEIGHTS[n])
