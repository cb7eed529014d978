import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.torch_file import read_torch_config, write_torch_checkpoint
from litv2_jax.convert.unpickle import TorchFileError, UnsafeFileError
from tests.reference import GOLDEN, Reference

EXPECTED = Reference("checkpoint_expected")
FILES = sorted(path.name for path in GOLDEN.glob("*.pth"))


@pytest.mark.parametrize("name", FILES)
def test_reads_what_pytorch_wrote(name):
    arrays = read_torch_checkpoint(GOLDEN / name)

    meta = EXPECTED.meta
    assert list(arrays) == meta["state_dict_names"]
    assert [list(array.shape) for array in arrays.values()] == meta["shapes"]
    sums = [array.astype(np.float64).sum() for array in arrays.values()]
    np.testing.assert_allclose(sums, EXPECTED["param_sums"], rtol=1e-12)


def test_reads_the_settings_beside_the_weights():
    config = read_torch_config(GOLDEN / "litv2_tiny_checkpoint.pth")
    assert config["MODEL"]["LIT"]["NUM_HEADS"] == [1, 1, 2, 4]
    assert read_torch_config(GOLDEN / "litv2_tiny_checkpoint_bare.pth") == {}


def arrays_of_all_types():
    rng = np.random.default_rng(0)
    types = ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", ml_dtypes.bfloat16]
    arrays = {
        f"layer.{np.dtype(kind).name}": (10 * rng.standard_normal((3, 2))).astype(kind)
        for kind in types
    }
    arrays["scalar"] = np.array(7, np.int64)
    arrays["transposed"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    arrays["empty"] = np.zeros((0, 3), np.float32)
    return arrays


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_reads_what_it_wrote(tmp_path, ending):
    path, arrays = tmp_path / f"weights{ending}", arrays_of_all_types()

    write_torch_checkpoint(path, arrays)
    read = read_torch_checkpoint(path)

    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype, name
        np.testing.assert_array_equal(read[name], array)


def test_the_contents_decide_not_the_name(tmp_path):
    path = tmp_path / "weights.pth"
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, path)
    np.testing.assert_array_equal(read_torch_checkpoint(path)["a"], [1, 1])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_pytorch_reads_what_it_wrote(tmp_path, ending):
    torch = pytest.importorskip("torch")
    path, arrays = tmp_path / f"weights{ending}", arrays_of_all_types()
    write_torch_checkpoint(path, arrays)

    if ending == ".pth":
        read = torch.load(path, weights_only=True)["model"]
    else:
        read = pytest.importorskip("safetensors.torch").load_file(path)

    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = read[name]
        assert tensor.is_contiguous()
        if tensor.dtype == torch.bfloat16:
            tensor, array = tensor.float(), array.astype(np.float32)
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_reads_views_and_parameters_that_pytorch_saved(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    contents = {
        "view": base[1:3, ::2],
        "transposed": base.T,
        "parameter": torch.nn.Parameter(base[0]),
        "half": base.bfloat16(),
        "expanded": torch.ones(1).expand(3),
    }
    path = tmp_path / "views.pth"
    torch.save({"state_dict": contents, "rng": np.float64(1), "epoch": 3}, path)
    read = read_torch_checkpoint(path)
    for name, tensor in contents.items():
        np.testing.assert_array_equal(
            read[name].astype(np.float32), tensor.detach().float().numpy()
        )


# Files made by hand, down to the opcodes of the pickle.


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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, ending, share):
    path = tmp_path / f"whole{ending}"
    write_torch_checkpoint(path, arrays_of_all_types())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(TorchFileError, match="whole"):
        read_torch_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    write_torch_checkpoint(path, {"a": np.arange(1000, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 500.0)) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TorchFileError, match="damaged or truncated"):
        read_torch_checkpoint(path)


def zip_of(names) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02}.")
    return file.getvalue()


OTHER_FILES = {
    "text": (b"hello world\n" * 9, "neither a PyTorch nor a safetensors file"),
    "html": (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE"),
    "empty": (b"", "is empty"),
    "old": (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2),
        "before 1.6",
    ),
    "zip": (zip_of(["a.txt"]), "none that torch.save wrote"),
    "script": (zip_of(["m/data.pkl", "m/constants.pkl"]), "TorchScript"),
    "garbage": (zip_of(["m/data.pkl"])[:-1], "damaged or truncated"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_refused(tmp_path, name):
    data, message = OTHER_FILES[name]
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    with pytest.raises(TorchFileError, match=message):
        read_torch_checkpoint(path)


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


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*absent.pth"):
        read_torch_checkpoint(tmp_path / "absent.pth")


def test_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .pth, .pt or .safetensors"):
        write_torch_checkpoint(tmp_path / "x.npz", {})
