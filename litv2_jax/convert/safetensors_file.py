"""Reads safetensors files, alone or in the shards that an index names."""

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from litv2_jax.convert.entries import MAX_ARRAYS
from litv2_jax.convert.errors import (
    TorchFileError,
    describe_value,
    list_names,
    printable,
)
from litv2_jax.convert.views import MAX_DIMENSIONS

# Room for 30,000 arrays.
MAX_HEADER = 4 * 2**20

_TYPES = frozenset(
    ["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]
    + ["F16", "BF16", "F32", "F64", "C64"]
)


class SafetensorsFiles:
    """The arrays of one safetensors file, or of several, read when asked for.

    Attributes:
        names: Names of the arrays.
    """

    def __init__(self, path: Path):
        """Reads the names of the arrays.

        Args:
            path: A safetensors file, or an index: a JSON file that names shards.

        Raises:
            TorchFileError: If a file is damaged or missing.
        """
        shards = _read_index(path) if is_index(path) else {path: _read_names(path)}
        self._paths = {name: file for file, names in shards.items() for name in names}
        self.names = list(self._paths)

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Returns arrays by name."""
        by_path = defaultdict(list)
        for name in names:
            by_path[self._paths[name]].append(name)
        arrays = {}
        for path, wanted in by_path.items():
            with _open(path) as file:
                arrays |= {name: _read_array(file, name) for name in wanted}
        return arrays


def is_safetensors(path: Path) -> bool:
    """Returns whether a file is, or should be, a safetensors file or an index."""
    # A safetensors file begins with the length of its JSON header.
    is_named_so = path.suffix == ".safetensors"
    return is_named_so or is_index(path) or _read_start(path)[8:] == b"{"


def is_index(path: Path) -> bool:
    """Returns whether a file is, or should be, text with a JSON object."""
    start = _read_start(path)
    is_object = start.lstrip()[:1] == b"{" and b"\0" not in start
    return path.suffix == ".json" or (is_object and path.suffix != ".safetensors")


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(9)


def _read_index(path: Path) -> dict[Path, list[str]]:
    """Returns the names of the arrays in each shard."""
    if path.stat().st_size > MAX_HEADER:
        raise TorchFileError(
            f"an index of {path.stat().st_size:,} bytes, where at most {MAX_HEADER:,} "
            "are read"
        )
    try:
        files = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TorchFileError(
            "it is no index of safetensors files, which is a JSON object with a "
            "weight_map, or it is damaged: copy it again"
        ) from None
    shards: dict[Path, list[str]] = defaultdict(list)
    if not isinstance(files, dict) or not files or len(files) > MAX_ARRAYS:
        raise TorchFileError(
            f"its weight_map must name the files of 1 to {MAX_ARRAYS:,} arrays"
        )
    for name, file in files.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise TorchFileError(
                f"the file of {printable(name)} is {describe_value(file)}, but shards "
                "lie in the folder of the index and are called by their names alone"
            )
        shards[path.parent / file].append(name)
    missing = [file.name for file in shards if not file.is_file()]
    if missing:
        raise TorchFileError(f"these of its shards are missing: {list_names(missing)}")
    for file, names in shards.items():
        try:
            _compare(set(_read_names(file)), set(names))
        except TorchFileError as error:
            shard = printable(file.name)
            raise TorchFileError(f"its shard {shard} is refused: {error}") from None
    return dict(shards)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the same folder, on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _compare(found: set[str], wanted: set[str]) -> None:
    """Raises TorchFileError unless a shard has the arrays that the index names."""
    for names, problem in (
        (wanted - found, "it lacks arrays that the index looks for in it"),
        (found - wanted, "it has arrays that the index does not look for in it"),
    ):
        if names:
            raise TorchFileError(f"{problem}: {list_names(sorted(names))}")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Opens a file and turns any exception of the library into TorchFileError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
    if header_size > MAX_HEADER and header_size <= size:
        raise TorchFileError(
            f"its header has {header_size:,} bytes, where at most {MAX_HEADER:,} are "
            "read"
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except (TorchFileError, MemoryError):
        raise
    # A panic of its parser is not an Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = printable(str(error)) or type(error).__name__
        raise TorchFileError(
            f"it is a damaged or truncated safetensors file ({reason}): copy it again"
        ) from None


def _read_names(path: Path) -> list[str]:
    """Returns the names of the arrays in a file, having checked all of them."""
    with _open(path) as file:
        names = list(file.keys())
        if len(names) > MAX_ARRAYS:
            raise TorchFileError(
                f"it holds {len(names):,} arrays, where at most {MAX_ARRAYS:,} are read"
            )
        for name in names:
            array = file.get_slice(name)
            kind, shape = array.get_dtype(), array.get_shape()
            if kind not in _TYPES:
                raise TorchFileError(
                    f"{printable(name)} holds numbers of the type {printable(kind)}, "
                    f"where {' '.join(sorted(_TYPES))} are read"
                )
            # Also where one side is 0: numpy multiplies the others.
            size = math.prod(max(n, 1) for n in shape)
            if len(shape) > MAX_DIMENSIONS or size > max(1, path.stat().st_size):
                raise TorchFileError(
                    f"{printable(name)} has the impossible shape "
                    f"{describe_value(tuple(shape))}"
                )
    return names


def _read_array(file: Any, name: str) -> np.ndarray:
    array = file.get_tensor(name)
    # Any byte may stand for a truth value in a file, but not in numpy.
    return array.view(np.uint8).astype(bool) if array.dtype == np.bool_ else array
