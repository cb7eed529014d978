"""Reads files a second way, to compare with: slow, simple, and not safe.

Shares no code with the package: Python's own pickle and JSON, and numpy.
"""

import contextlib
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np

TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    # As safetensors calls them.
    **{f"F{8 * n}": f"f{n}" for n in (2, 4, 8)},
    **{f"{k.upper()}{8 * n}": f"{k}{n}" for n in (1, 2, 4, 8) for k in "iu"},
    "BF16": ml_dtypes.bfloat16,
    "BOOL": "?",
    "C64": "c8",
}
PREFIXES = ["module.", "model.", "_orig_mod."]


def read_all(path: str) -> list[dict[str, np.ndarray]]:
    """Returns every set of arrays by name in a file, without what all names share."""
    data = Path(path).read_bytes()
    if b"PK\5\6" not in data[-100:]:
        return [_read_safetensors(data)]
    found = []
    with zipfile.ZipFile(path) as archive:
        (root,) = [n[:-8] for n in archive.namelist() if n.endswith("/data.pkl")]
        for values in _dictionaries(_Unpickler(archive, root).load(), 3):
            if not values:
                continue
            # What is damaged may be part of something else.
            with contextlib.suppress(Exception):
                found.append(_strip({name: x.read() for name, x in values.items()}))
    return found


def _dictionaries(value, depth):
    if isinstance(value, dict) and depth:
        yield value
        for item in value.values():
            yield from _dictionaries(item, depth - 1)


def _strip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in PREFIXES * 4:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): x for name, x in arrays.items()}
    return arrays


class _Object(dict):
    """Stands in for any object."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        pass

    def __call__(self, *args):
        return _Object()

    def append(self, item):
        pass

    extend = add = append

    def __hash__(self):
        return id(self)


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}data.pkl"), encoding="latin1")
        self._read = lambda key: archive.read(f"{root}data/{key}")
        order = f"{root}byteorder"
        is_big = order in archive.namelist() and archive.read(order) == b"big"
        self._order = ">" if is_big else "<"

    def find_class(self, module, name):
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return self._tensor
        if name == "_rebuild_from_type_v2":
            return lambda rebuild, kind, arguments, state: rebuild(*arguments)
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        return type(name, (_Object,), {})

    def persistent_load(self, pid):
        return pid

    def _tensor(self, *description):
        return _Tensor(self._read, self._order, *description)


class _Tensor:
    """A tensor, read when all of the pickle is known."""

    def __init__(self, read, order, pid, offset, shape, strides, *_):
        self._arguments = read, order, pid, offset, shape, strides

    def read(self) -> np.ndarray:
        read, order, pid, offset, shape, strides = self._arguments
        _, kind, key, _, size = pid
        dtype = np.dtype(TYPES[kind.__name__])
        data = np.frombuffer(read(key), f"{order}u{dtype.itemsize}", size)
        return _take(data, dtype, offset, shape, strides)


def _take(data, dtype, offset, shape, strides) -> np.ndarray:
    indices = np.full(shape, offset)
    for axis, step in enumerate(strides):
        # The step along a side of 1 is none, and may be any number.
        along = np.arange(shape[axis]) * (step if shape[axis] > 1 else 0)
        indices += along.reshape([-1] + [1] * (len(shape) - axis - 1))
    assert (indices >= 0).all()
    numbers = np.asarray(data[indices])  # With the check of numpy.
    numbers = numbers.astype(f"u{dtype.itemsize}")
    return numbers.astype(bool) if dtype.kind == "b" else numbers.view(dtype)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        array = np.frombuffer(body[start:end], TYPES[entry["dtype"]])
        array = array.view("u1").astype(bool) if entry["dtype"] == "BOOL" else array
        arrays[name] = array.reshape(entry["shape"])
    return arrays
