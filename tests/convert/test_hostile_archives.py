"""Archives made to harm who reads them, and such as were cut."""

import io
import stat
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.errors import TorchFileError
from litv2_jax.convert.torch_file import write_torch_checkpoint
from tests.convert.pickles import plain, state_dict, storage, tensor, text
from tests.convert.test_unpickle import write_zip
from tests.fuzz.judge import Examiner, find_fault
from tests.reference import GOLDEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

NUMBERS = np.arange(6, dtype="<f4").tobytes()
PICKLE = state_dict((text("a"), tensor()))
MEMBERS = {"m/data.pkl": PICKLE, "m/data/0": NUMBERS}


@pytest.fixture(scope="module")
def examine():
    with Examiner() as examiner:
        yield examiner


def pack(members=MEMBERS, **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def with_duplicates() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", PICKLE)
        archive.writestr("m/data/0", NUMBERS)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("m/data/0", bytes(24))
    return file.getvalue()


def with_symlink() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("m/data.pkl")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("m/data/0", NUMBERS)
    return file.getvalue()


def change(data: bytes, signature: bytes, offset: int, field: bytes) -> bytes:
    """Writes a field into the first header with the signature."""
    place = data.index(signature) + offset
    return data[:place] + field + data[place + len(field) :]


def change_all(data: bytes, signature: bytes, offset: int, field: bytes) -> bytes:
    place = data.find(signature)
    while place >= 0:
        data = data[: place + offset] + field + data[place + offset + len(field) :]
        place = data.find(signature, place + 1)
    return data


def overlapping(num_members: int) -> bytes:
    """Every storage of the table of contents is the same megabyte of the file."""
    items = [(text(f"a{i}"), big_tensor(str(i))) for i in range(num_members)]
    data = pack({"m/data.pkl": state_dict(*items), "m/data/0": bytes(2**20)})
    start = data.index(b"PK\1\2", 2**20)
    end = data.index(b"PK\5\6")
    entry = data[data.index(b"m/data/0", start) - 46 : end]
    extra = b"".join(
        change(entry[:46], b"PK\1\2", 28, struct.pack("<H", len(f"m/data/{i}")))
        + f"m/data/{i}".encode()
        for i in range(1, num_members)
    )
    directory = data[start:end] + extra
    tail = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, num_members + 1, num_members + 1,
        len(directory), start, 0,
    )  # fmt: skip
    return data[:start] + directory + tail


def big_tensor(key: str) -> bytes:
    lies_in = storage(key=text(key), size=plain(2**18))
    return tensor((2**18,), (1,), lies_in=lies_in)


def crowded() -> bytes:
    """A table of contents of five megabytes, with empty members."""
    return pack(MEMBERS | {f"m/{'x' * 200}{i}": b"" for i in range(20_000)})


ARCHIVES = {
    "the same name twice": (with_duplicates, "have the same name"),
    "two checkpoints": (
        lambda: pack(MEMBERS | {"n/data.pkl": PICKLE}),
        "holds 2 checkpoints",
    ),
    "deflated": (lambda: pack(compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a deflated bomb": (
        lambda: pack(
            {"m/data.pkl": state_dict((text("a"), big_tensor("0")))}
            | {"m/data/0": bytes(2**27)},
            compression=zipfile.ZIP_DEFLATED,
        ),
        "is compressed",
    ),
    "an unknown method": (
        lambda: change_all(pack(), b"PK\1\2", 10, b"\x63\0"),
        "is compressed",
    ),
    "encrypted": (lambda: change_all(pack(), b"PK\1\2", 8, b"\1\0"), "is encrypted"),
    "a later version": (
        lambda: change_all(pack(), b"PK\1\2", 6, b"\xff\0"),
        "damaged or truncated",
    ),
    "a name that is no text": (
        lambda: change_all(pack(), b"PK\1\2", 8, b"\0\x08").replace(b"m/d", b"m/\xff"),
        "damaged or truncated",
    ),
    "a size beyond the file": (
        lambda: change_all(pack(), b"PK\1\2", 20, b"\xff\xff\xff\x7f" * 2),
        "damaged or truncated|where at most",
    ),
    "a size that is not the stored one": (
        lambda: change_all(pack(), b"PK\1\2", 24, b"\xff\xff\xff\x7f"),
        "overlap",
    ),
    "64-bit sizes that are not there": (
        lambda: change_all(pack(), b"PK\1\2", 20, b"\xff" * 8),
        "damaged or truncated|where at most",
    ),
    "a place beyond the file": (
        lambda: change_all(pack(), b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
        "overlap|longer than the file",
    ),
    "a place before the file": (
        lambda: change(pack(), b"PK\5\6", 16, b"\xff\xff\xff\x7f"),
        "damaged or truncated",
    ),
    "a table of contents of 2 GB": (
        lambda: change(pack(), b"PK\5\6", 12, b"\xff\xff\xff\x7f"),
        "longer than itself",
    ),
    "a comment": (lambda: pack()[:-2] + b"\1\0x", "the table of contents at its end"),
    "no members": (lambda: pack({}), "none that torch.save wrote"),
    "one storage for many": (lambda: overlapping(500), "overlap"),
    "20,000 members": (crowded, "where at most 4,194,304 are read"),
    "a link": (with_symlink, "its pickle is damaged"),
    "another byte order": (
        lambda: pack(MEMBERS | {"m/byteorder": b"\x1b[2J"}),
        "its byte order is",
    ),
    "a long byte order": (
        lambda: pack(MEMBERS | {"m/byteorder": bytes(2**20)}),
        "where at most 16 are read",
    ),
    "the pickle alone": (lambda: pack({"m/data.pkl": PICKLE}), "storage 0 is missing"),
    "a wrong checksum": (
        lambda: pack().replace(NUMBERS, bytes(24)),
        "damaged or truncated .Bad CRC-32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives_are_refused(examine, tmp_path, name):
    make, reason = ARCHIVES[name]
    path = tmp_path / "x.pth"
    path.write_bytes(make())
    verdict = examine(path)
    assert find_fault(path, verdict, []) == ""
    with pytest.raises(TorchFileError, match=reason):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "members",
    [
        {"/m/data.pkl": PICKLE, "/m/data/0": NUMBERS},
        {"../m/data.pkl": PICKLE, "../m/data/0": NUMBERS},
        MEMBERS | {"m/../../evil": b"x", "/etc/passwd": b"x", "m/\x1b[2J": b""},
    ],
)
def test_nothing_is_unpacked(tmp_path, monkeypatch, members):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    Path("x.pth").write_bytes(pack(members))
    assert list(read_torch_checkpoint("x.pth")) == ["a"]
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.pth"]


def test_a_long_archive_takes_the_memory_of_its_arrays(examine, tmp_path):
    """One storage of 100 MB: what is read is neither copied nor read twice."""
    path = tmp_path / "x.pth"
    count = 25 * 2**20
    lies_in = storage(size=plain(count))
    tensors = [(text("a"), tensor((count,), (1,), lies_in=lies_in))]
    write_zip(path, state_dict(*tensors), {"data/0": bytes(4 * count)})
    verdict = examine(path)
    assert verdict["outcome"] == "read"
    assert verdict["megabytes"] < path.stat().st_size / 2**20 + 30


@pytest.mark.parametrize("part", ["start", "middle", "end"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_an_interrupted_download_is_said_to_be_cut(tmp_path, part, share):
    data = (GOLDEN / "litv2_tiny_checkpoint_bare.pth").read_bytes()
    count = int(share * len(data))
    cut = {
        "start": data[count:],
        "middle": data[: len(data) // 3] + data[len(data) // 3 + count // 2 :],
        "end": data[: len(data) - count],
    }[part]
    path = tmp_path / "x.pth"
    path.write_bytes(cut)
    with pytest.raises(TorchFileError, match=r"x\.pth .*(damaged|neither)"):
        read_torch_checkpoint(path)


def test_names_that_share_a_tensor_share_an_array(tmp_path):
    pickled = state_dict((text("a"), tensor()), (text("b"), tensor()))
    path = write_zip(tmp_path / "x.pth", pickled, {"data/0": NUMBERS})
    arrays = read_torch_checkpoint(path)
    assert arrays["a"] is arrays["b"]
    # Those of two files are never the same.
    assert read_torch_checkpoint(path)["a"] is not arrays["a"]


def test_arrays_can_be_written_to(tmp_path):
    path = tmp_path / "x.pth"
    write_torch_checkpoint(path, {"a": np.zeros(3, np.float32)})
    arrays = read_torch_checkpoint(path)
    arrays["a"] += 1
    np.testing.assert_array_equal(read_torch_checkpoint(path)["a"], [0, 0, 0])
