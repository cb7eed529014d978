"""Files made by hand, down to the opcodes of the pickle."""

import collections
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.unpickle import TorchFileError, UnsafeFileError


def write_zip(path: Path, pickled: bytes, files: dict[str, bytes] | None = None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (files or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


def tensor_opcodes(shape, strides, *, offset=0, size=6, storage="FloatStorage"):
    def plain(value):
        return pickle.dumps(value, 2)[2:-1]

    pid = b"(" + plain("storage") + f"ctorch\n{storage}\n".encode()
    pid += plain("0") + plain("cpu") + plain(size) + b"tQ"
    arguments = pid + plain(offset) + plain(shape) + plain(strides)
    arguments += b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict_of(tensor: bytes) -> bytes:
    return b"\x80\x02}" + pickle.dumps("a", 2)[2:-1] + tensor + b"s."


def test_big_endian_files_are_read(tmp_path):
    numbers = np.arange(6, dtype=">f4").tobytes()
    files = {"data/0": numbers, "byteorder": b"big"}
    pickled = state_dict_of(tensor_opcodes((2, 3), (3, 1)))
    read = read_torch_checkpoint(write_zip(tmp_path / "x.pth", pickled, files))
    np.testing.assert_array_equal(read["a"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor_opcodes((3, 3), (3, 1)), "beyond the end"),
        (tensor_opcodes((2, 3), (3, 1), offset=1), "beyond the end"),
        (tensor_opcodes((2, 3), (-3, 1)), "impossible layout"),
        (tensor_opcodes((2, 3), (3, 1), size=7), "not as long as it should be"),
        (tensor_opcodes((2,), (1,), storage="QInt8Storage"), "unknown type"),
    ],
)
def test_tensors_stay_inside_their_storage(tmp_path, tensor, message):
    path = write_zip(tmp_path / "x.pth", state_dict_of(tensor), {"data/0": bytes(24)})
    with pytest.raises(TorchFileError, match=message):
        read_torch_checkpoint(path)


def test_missing_storage_is_named(tmp_path):
    path = write_zip(tmp_path / "x.pth", state_dict_of(tensor_opcodes((2, 3), (3, 1))))
    with pytest.raises(TorchFileError, match="its storage 0 is missing"):
        read_torch_checkpoint(path)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MALICIOUS = {
    "os.system": Call(os.system, "touch HACKED"),
    "eval": Call(eval, "open('HACKED', 'w')"),
    "exec": Call(exec, "open('HACKED', 'w')"),
    "import": Call(__import__, "HACKED"),
    "getattr": Call(getattr, "x", "upper"),
    "popen": Call(__import__("subprocess").Popen, ["touch", "HACKED"]),
    "numpy": Call(np.save, "HACKED.npy", 1),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["zip", "bare"])
@pytest.mark.parametrize("name", MALICIOUS)
def test_files_made_to_run_code_are_refused(
    tmp_path, monkeypatch, name, form, protocol
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    pickled = pickle.dumps({"model": {"a": MALICIOUS[name]}}, protocol)
    if form == "zip":
        write_zip(path, pickled)
    else:
        path.write_bytes(pickled)

    with pytest.raises(UnsafeFileError, match=r"unsafe: it asks for .* which"):
        read_torch_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_refusal_of_os_system_names_it(tmp_path):
    pickled = b"cos\nsystem\n(S'touch HACKED'\ntR."
    path = write_zip(tmp_path / "model.pth", pickled)
    with pytest.raises(UnsafeFileError, match=r"os\.system to be called on loading"):
        read_torch_checkpoint(path)


def test_other_classes_become_inert(tmp_path):
    """Objects of classes that are not installed, as `yacs.config.CfgNode` is not."""
    pickled = (
        b"\x80\x02}("
        + pickle.dumps("config", 2)[2:-1]
        + b"cyacs.config\nCfgNode\n)\x81}"
        + pickle.dumps("x", 2)[2:-1]
        + b"K\x01sb"
        + pickle.dumps("path", 2)[2:-1]
        + pickle.dumps(Path("/somewhere"), 2)[2:-1]
        + pickle.dumps("model", 2)[2:-1]
        + b"}"
        + pickle.dumps("a", 2)[2:-1]
        + tensor_opcodes((2, 3), (3, 1))
        + b"su."
    )
    path = write_zip(tmp_path / "x.pth", pickled, {"data/0": bytes(24)})
    assert read_torch_checkpoint(path)["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1, 2], "holds a list"),
        ({"model": {}}, "no tensors by name"),
        ({"model": 3}, "no tensors by name"),
        ({"state_dict": {"a": 1, "b": "x"}}, "not tensors: a, b"),
        ({"epoch": 3}, "not tensors: epoch"),
        ({"model": collections.UserDict()}, "no tensors by name"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, contents, message):
    path = write_zip(tmp_path / "x.pth", pickle.dumps(contents, 2))
    with pytest.raises(TorchFileError, match=message):
        read_torch_checkpoint(path)
