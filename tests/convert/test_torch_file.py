import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.torch_file import read_torch_config, write_torch_checkpoint
from litv2_jax.convert.unpickle import TorchFileError
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


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*absent.pth"):
        read_torch_checkpoint(tmp_path / "absent.pth")


def test_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .pth, .pt or .safetensors"):
        write_torch_checkpoint(tmp_path / "x.npz", {})
