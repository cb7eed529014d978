"""Writes pickles by hand, instruction by instruction."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from litv2_jax.convert.views import STORAGE_TYPES

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def plain(value) -> bytes:
    """Returns what pushes a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def text(value: bytes | str) -> bytes:
    """Returns what pushes text, without the memo."""
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def name(full_name: str) -> bytes:
    """Returns what pushes a class or function."""
    module, _, attribute = full_name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def storage(
    kind: bytes = name("torch.FloatStorage"),
    key: bytes = text("0"),
    size: bytes = plain(6),
) -> bytes:
    """Returns what pushes a storage."""
    return b"(" + text("storage") + kind + key + text("cpu") + size + b"tQ"


def tensor(
    shape=(2, 3),
    strides=(3, 1),
    *,
    offset=0,
    lies_in: bytes = storage(),
    more: bytes = b"",
) -> bytes:
    """Returns what pushes a tensor; layouts may be bytes that push them."""
    layout = [x if isinstance(x, bytes) else plain(x) for x in (offset, shape, strides)]
    arguments = lies_in + b"".join(layout) + b"\x89" + ORDERED_DICT + more
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Returns what pushes the result of a call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def state_dict(*items: tuple[bytes, bytes]) -> bytes:
    """Returns the pickle of a dictionary, of what pushes keys and values."""
    return b"\x80\x02}" + b"".join(key + value + b"s" for key, value in items) + b"."


def one(value: bytes) -> bytes:
    """Returns the pickle of a state dict with a tensor `a`, and something else."""
    return state_dict((text("model"), b"}" + text("a") + tensor() + b"s"))[:-1] + (
        text("other") + value + b"s."
    )


def save(path: Path, contents) -> Path:
    """Writes what torch.save would, of dictionaries, arrays and plain values."""
    storages: dict[str, bytes] = {}

    def push(value) -> bytes:
        if isinstance(value, dict):
            items = [push(key) + push(item) + b"s" for key, item in value.items()]
            return b"}" + b"".join(items)
        if not isinstance(value, np.ndarray):
            return value if isinstance(value, Raw) else plain(value)
        number = str(len(storages))
        storages[f"data/{number}"] = value.tobytes()
        kind = {v: k for k, v in STORAGE_TYPES.items()}[value.dtype]
        strides = tuple(step // value.itemsize for step in value.strides)
        lies_in = storage(name(f"torch.{kind}"), text(number), plain(value.size))
        return tensor(value.shape, strides, lies_in=lies_in)

    pickled = b"\x80\x02" + push(contents) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for member, data in storages.items():
            archive.writestr(f"archive/{member}", data)
    return path


class Raw(bytes):
    """Instructions that push a value."""
