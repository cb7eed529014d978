"""Safetensors files made to harm who reads them."""

import json
import struct
import sys

import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.errors import TorchFileError
from tests.convert.pickles import plain, state_dict, storage, tensor, text
from tests.convert.test_unpickle import write_zip
from tests.fuzz.judge import Examiner, find_fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def examine():
    with Examiner() as examiner:
        yield examiner


def safetensors_of(header, data: bytes = bytes(24)) -> bytes:
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def array(dtype: str = "F32", shape=(2, 3), offsets=(0, 24)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


SAFETENSORS = {
    "F8": (array("F8_E8M0", (24,)), "numbers of the type F8_E8M0"),
    "F4": (array("F4", (48,)), "numbers of the type F4"),
    "unknown": (array("\x1b[2J"), "damaged"),
    "empty and enormous": (array(shape=(0, 2**62), offsets=(0, 0)), "damaged|shape"),
    "70 sides": (array(shape=[1] * 69 + [6]), "impossible shape"),
    "overflow": (array(shape=(2**32, 2**32)), "damaged"),
    "nested": (b'{"a":' * 100_000, "damaged"),
    "many": (
        b"{" + b",".join(
            b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i
            for i in range(60_000)
        ) + b"}",
        "60,000 arrays",
    ),
    "long": (b"{" + b" " * (5 * 2**20) + b"}", "header has 5,242,882 bytes"),
    "escapes": ({"\x1b[2J": array()["a"], "b": array()["a"]}, "damaged"),
    "nothing": (b"", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(examine, tmp_path, name):
    header, reason = SAFETENSORS[name]
    path = tmp_path / "x.safetensors"
    is_empty = name in ("empty and enormous", "many")
    path.write_bytes(safetensors_of(header, b"" if is_empty else bytes(24)))
    verdict = examine(path)
    assert find_fault(path, verdict, []) == ""
    with pytest.raises(TorchFileError, match=reason):
        read_torch_checkpoint(path)


def test_truth_values_are_zero_or_one(tmp_path):
    """Any other byte would be a third truth value in numpy."""
    values = np.array([0, 1, 2, 255], np.uint8).tobytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_of(array("BOOL", (4,), (0, 4)), values))
    lies_in = storage(b"ctorch\nBoolStorage\n", size=plain(4))
    pickled = state_dict((text("a"), tensor((4,), (1,), lies_in=lies_in)))
    archive = write_zip(tmp_path / "x.pth", pickled, {"data/0": values})
    for file in (path, archive):
        read = read_torch_checkpoint(file)["a"]
        assert read.dtype == bool
        assert read.tobytes() == b"\0\1\1\1"
