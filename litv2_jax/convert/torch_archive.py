"""The zip archive that torch.save writes: a pickle, and raw storages beside it.

Members are stored uncompressed, and their sizes are first checked against the size of
the file: nothing is decompressed, and no array is larger than the file.
"""

import contextlib
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from litv2_jax.convert.errors import TorchFileError, printable
from litv2_jax.convert.pickled_objects import Tensor
from litv2_jax.convert.views import make_view

# Of the table of contents: room for 30,000 arrays.
MAX_DIRECTORY = 4 * 2**20
MAX_PICKLE = 512 * 2**20
_CHUNK = 4 * 2**20


class TorchArchive:
    """A `.pth` file that is open for reading."""

    def __init__(self, file: BinaryIO):
        """Reads the table of contents.

        Args:
            file: Must stay open as long as this object is used.

        Raises:
            zipfile.BadZipFile: If it is not a zip archive.
            TorchFileError: If torch.save did not write it.
        """
        self._file_size = file.seek(0, os.SEEK_END)
        _check_directory(file, self._file_size)
        with _explain_zip():
            self._archive = zipfile.ZipFile(file)
        self._members = {info.filename: info for info in self._archive.infolist()}
        if len(self._members) < len(self._archive.infolist()):
            raise TorchFileError("two members of the archive have the same name")
        self._check_places()
        self._root = _find_root(list(self._members))

    def read_pickle(self) -> bytes:
        """Returns the pickle that describes the rest."""
        return self._read("data.pkl", MAX_PICKLE)

    def read_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Returns the arrays by name; names of the same view share one array.

        Each storage is read once, and only those that are needed.

        Raises:
            TorchFileError: If a tensor reaches beyond its storage, or all of them are
                larger than the file.
        """
        views = {n: make_view(n, x, self._file_size) for n, x in tensors.items()}
        by_storage = defaultdict(list)
        for view in dict.fromkeys(views.values()):
            by_storage[view.key].append(view)
        num_bytes = sum(view.num_bytes for same in by_storage.values() for view in same)
        if num_bytes > self._file_size:
            raise TorchFileError(
                f"its tensors show the same numbers again and again ({num_bytes:,} "
                f"bytes in a file of {self._file_size:,}): save .contiguous() tensors"
            )
        is_big_endian = self._is_big_endian()
        arrays = {}
        for key, same in by_storage.items():
            data = self._read_storage(key)
            for view in same:
                arrays[view] = view.take(data, is_big_endian, is_alone=len(same) == 1)
        return {name: arrays[view] for name, view in views.items()}

    def _is_big_endian(self) -> bool:
        if f"{self._root}byteorder" not in self._members:
            return False
        order = self._read("byteorder", max_size=16)
        if order not in (b"little", b"big"):
            raise TorchFileError(f"its byte order is {printable(repr(order))}")
        return order == b"big"

    def _read(self, name: str, max_size: int) -> bytes:
        """Returns the bytes of a member, after checking its checksum."""
        member = self._members[f"{self._root}{name}"]
        if member.file_size > max_size:
            raise TorchFileError(
                f"its {name} has {member.file_size:,} bytes, where at most "
                f"{max_size:,} are read: save the state dict alone"
            )
        with _explain_zip():
            return self._archive.read(member)

    def _read_storage(self, key: str) -> bytearray:
        """Returns the bytes of a storage, writable, so that arrays can be views."""
        member = self._members.get(f"{self._root}data/{key}")
        if member is None:
            raise TorchFileError(f"its storage {printable(key, 40)} is missing")
        data, position = bytearray(member.file_size), 0
        with _explain_zip(), self._archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                data[position : position + len(chunk)] = chunk
                position += len(chunk)
        return data

    def _check_places(self) -> None:
        """Checks that members lie within the file and do not overlap."""
        end = 0
        for info in sorted(self._members.values(), key=lambda info: info.header_offset):
            name = printable(info.filename)
            if info.flag_bits & 1:
                raise TorchFileError(f"its member {name} is encrypted")
            if info.compress_type != zipfile.ZIP_STORED:
                raise TorchFileError(
                    f"its member {name} is compressed, which torch.save never does: "
                    "unpack the archive and pack it again with `zip -0`"
                )
            if info.file_size != info.compress_size or info.header_offset < end:
                raise zipfile.BadZipFile(f"{name} and another member overlap")
            # A header has 30 bytes and the name.
            end = info.header_offset + 30 + len(info.orig_filename) + info.file_size
        if end > self._file_size:
            raise zipfile.BadZipFile("a member is longer than the file")


@contextlib.contextmanager
def _explain_zip() -> Iterator[None]:
    """Turns the many errors that zipfile raises into one."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = printable(str(error)) or "it ends too early"
        raise zipfile.BadZipFile(reason) from None


def _check_directory(file: BinaryIO, file_size: int) -> None:
    """Checks that the table of contents is short, before zipfile reads it.

    It reads the same records at the end as zipfile does without a comment.
    """
    file.seek(max(0, file_size - 98))
    tail = file.read().rjust(98, b"\0")
    end, locator, end64 = tail[-22:], tail[-42:-22], tail[:56]
    if end[:4] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise zipfile.BadZipFile("the table of contents at its end is missing")
    size = int.from_bytes(end[12:16], "little")
    if locator[:4] == b"PK\6\7" and end64[:4] == b"PK\6\6":
        size = int.from_bytes(end64[40:48], "little")
    if size > file_size:
        raise zipfile.BadZipFile("its table of contents is longer than itself")
    if size > MAX_DIRECTORY:
        raise TorchFileError(
            f"its table of contents has {size:,} bytes, where at most "
            f"{MAX_DIRECTORY:,} are read: save the state dict alone"
        )


def _find_root(names: list[str]) -> str:
    """Returns the folder that torch.save puts everything into."""
    roots = [
        name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")
    ]
    if not roots:
        raise TorchFileError("it is a zip archive, but none that torch.save wrote")
    if f"{roots[0]}constants.pkl" in names:
        raise TorchFileError(
            "it is a TorchScript program; save the state_dict() of the model instead"
        )
    if len(roots) > 1:
        raise TorchFileError(f"it holds {len(roots)} checkpoints, each with a data.pkl")
    return roots[0]
