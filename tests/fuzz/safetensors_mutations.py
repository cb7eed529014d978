"""Damages the header of a safetensors file."""

import json
import random
import struct

from tests.fuzz.byte_mutations import EXTREMES, flip

_SAME_SIZE = [
    ["U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ"],
    ["F16", "BF16", "I16", "U16"],
    ["F32", "I32", "U32"],
    ["F64", "I64", "U64", "C64"],
]
_DTYPES = [name for names in _SAME_SIZE for name in names]
_DTYPES += ["F4", "F6_E2M3", "", "f32", "\x1b[2J", 1, None]


def flip_header(data: bytes, rng: random.Random) -> bytes:
    return flip(data, rng, 8, 8 + struct.unpack("<Q", data[:8])[0])


def change_length(data: bytes, rng: random.Random) -> bytes:
    number = rng.choice([*EXTREMES, rng.randrange(len(data))]) % 2**64
    return struct.pack("<Q", number) + data[8:]


def change_header(data: bytes, rng: random.Random) -> bytes:
    """Puts another value in the place of one of the header's."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    field = rng.choice(["dtype", "shape", "data_offsets", "name", "extra"])
    if field == "dtype":
        same_size = next((x for x in _SAME_SIZE if entry["dtype"] in x), _DTYPES)
        entry["dtype"] = rng.choice(rng.choice([same_size, _DTYPES]))
    elif field == "shape":
        # The first ones keep the number of elements, if it is 0 or any.
        entry["shape"] = rng.choice(
            [[0], [0, 2**62], [0, 2**63], entry["shape"] + [1] * 70]
            + [entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]]]
            + [[], [-1], [2**64], [0.5], None, ["1"], [[1]]]
        )
    elif field == "data_offsets":
        entry["data_offsets"][rng.randrange(2)] = rng.choice(EXTREMES)
    elif field == "name":
        header[rng.choice(["", "\x1b[2J", "\x00", "a" * 3000, "é"])] = header.pop(name)
    else:
        header[rng.choice(["__metadata__", "x"])] = rng.choice([{}, [], 1, {"a": 1}])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


CHANGES = [flip_header, change_length, change_header]
