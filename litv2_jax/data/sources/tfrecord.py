"""Random access to TFRecord files, without TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), its bytes, and a
checksum of those (4), which is not verified: in Python that would take longer than
decoding an image. The start of each record is found once and stored in an index.
"""

import contextlib
import contextvars
import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from tqdm import tqdm

from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError

_HEADER = struct.Struct("<QI")
_FOOTER_SIZE = 4


class TfRecordFiles:
    """The records of some files, as bytes, by index."""

    def __init__(self, parts: Sequence[tuple[str, int, int]]):
        """Finds the records, which takes a while the first time.

        Args:
            parts: Files, the first of their records to take, and how many to take.

        Raises:
            ConfigError: If a file is missing, truncated or damaged.
        """
        self._paths = [path for path, _, _ in parts]
        index = find_records([Path(path) for path in self._paths])
        positions = []
        for path, skip, take in parts:
            found = index[path][skip : skip + take]
            if len(found) < take:
                raise ConfigError(
                    f"{path} has {len(index[path])} records, not the {skip + take} or "
                    "more it should; copy it again from where it came."
                )
            positions.append(found)
        self._positions = np.concatenate(positions)
        self._ends = np.cumsum([take for _, _, take in parts])
        self._files: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"There is no record {index} among {len(self)}.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        start, length = self._positions[index].tolist()
        try:
            data = os.pread(self._open(number).fileno(), length, start)
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error
        if len(data) < length:
            raise UnreadableImageError(f"{self._paths[number]} became shorter")
        return data

    def _open(self, number: int) -> BinaryIO:
        """Returns an open file, which stays open."""
        file = self._files.get(number)
        if file is None:
            opened = open(self._paths[number], "rb", buffering=0)  # noqa: SIM115
            # If two threads open it, both read from the file opened first.
            file = self._files.setdefault(number, opened)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


_keeps_index = contextvars.ContextVar("keeps_index", default=True)


@contextlib.contextmanager
def without_keeping_index() -> Iterator[None]:
    """Makes `find_records` write no index while the block runs."""
    token = _keeps_index.set(False)
    try:
        yield
    finally:
        _keeps_index.reset(token)


def find_records(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Returns the start and length [N, 2] of each record of some files.

    An index is stored beside the files, or in the user's cache if that folder is
    read-only, and is valid while a file keeps its size and modification time.

    Raises:
        ConfigError: If a file is missing, truncated or damaged.
    """
    paths = sorted(set(paths))
    ages = {path.name: _age(path) for path in paths}
    places = _cache_places(paths[0])
    known = {}
    for place in reversed(places):
        known |= _load(place)
    missing = [p for p in paths if known.get(p.name, (None,))[0] != ages[p.name]]
    if missing:
        with ThreadPoolExecutor(8) as executor:
            found = tqdm(
                executor.map(scan, missing),
                f"index {paths[0].parent.name}",
                total=len(missing),
                unit=" files",
                delay=2,
                leave=False,
            )
            for path, positions in zip(missing, found, strict=True):
                known[path.name] = ages[path.name], positions
        if _keeps_index.get():
            _save(places, known)
    return {str(path): known[path.name][1] for path in paths}


def scan(path: Path) -> np.ndarray:
    """Returns the start and length [N, 2] of each record of one file.

    Raises:
        ConfigError: If the file is truncated or damaged.
    """
    positions = []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        start = 0
        while start < size:
            header = os.pread(file.fileno(), _HEADER.size, start)
            if len(header) < _HEADER.size:
                break
            length, checksum = _HEADER.unpack(header)
            if masked_crc(header[:8]) != checksum:
                raise ConfigError(
                    f"{path} is no TFRecord file, or is damaged at byte {start}; copy "
                    "it again from where it came."
                )
            positions.append((start + _HEADER.size, length))
            start += _HEADER.size + length + _FOOTER_SIZE
    if start != size:
        raise ConfigError(
            f"{path} is cut short in the record at byte {start}; copy it again from "
            "where it came."
        )
    return np.array(positions, np.int64).reshape(-1, 2)


def masked_crc(data: bytes) -> int:
    """Returns the checksum of TFRecord: CRC-32C, rotated, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC_TABLE = tuple(_crc_table())

# Size and modification time of a file.
_Age = tuple[int, int]


def _age(path: Path) -> _Age:
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    return stat.st_size, stat.st_mtime_ns


def _cache_places(path: Path) -> list[Path]:
    """Returns the files that may hold the index of a split, the better one first."""
    name = path.name.split(".tfrecord")[0] + ".offsets.npz"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = hashlib.sha256(os.fsencode(path.parent.resolve())).hexdigest()[:16]
    return [path.parent / name, caches / "litv2_jax" / folder / name]


def _load(place: Path) -> dict[str, tuple[_Age, np.ndarray]]:
    """Returns the age and the records of each file; nothing if there is no index."""
    try:
        with np.load(place) as arrays:
            names, ages, counts, positions = (
                arrays[key] for key in ("names", "ages", "counts", "positions")
            )
    # A damaged index is rebuilt; numpy raises many errors for one.
    except Exception:
        return {}
    parts = np.split(positions, np.cumsum(counts)[:-1])
    ages = [(size, time) for size, time in ages.tolist()]
    return dict(zip(names.tolist(), zip(ages, parts, strict=True), strict=True))


def _save(places: list[Path], index: dict[str, tuple[_Age, np.ndarray]]) -> None:
    """Writes an index to the first place that is writable."""
    arrays = {
        "names": np.array(list(index)),
        "ages": np.array([age for age, _ in index.values()], np.int64),
        "counts": np.array([len(positions) for _, positions in index.values()]),
        "positions": np.concatenate([positions for _, positions in index.values()]),
    }
    for place in places:
        temporary = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            if place is not places[0]:
                place.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, place)
            return
        except OSError as error:
            logging.info("No index is kept in %s: %s", place, error)
            with contextlib.suppress(OSError):
                temporary.unlink()
    logging.warning(
        "The index of the TFRecord files can be kept neither in %s nor in %s; it will "
        "be made anew each time.",
        *(place.parent for place in places),
    )
