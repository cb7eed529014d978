"""Damages files of weights, the same way for the same seed.

A mutation of the bytes of a file leaves its checksums as they were; one of a member
packs the archive again, so that nothing but the reader can notice.
"""

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable

Bytes = Callable[[bytes, random.Random], bytes]
Members = Callable[[dict[str, bytes], random.Random], dict[str, bytes]]
EXTREMES = [0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**61, 2**63]
EXTREMES += [2**62, -(2**31), 2**64 - 1, -(2**63)]


# Of any file.


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    return _flip(data, rng, 0, len(data))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(2, 20)):
        data = _flip(data, rng, 0, len(data))
    return data


def flip_start(data: bytes, rng: random.Random) -> bytes:
    return _flip(data, rng, 0, 300)


def flip_end(data: bytes, rng: random.Random) -> bytes:
    return _flip(data, rng, len(data) - 1000, len(data))


def cut_start(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(1, len(data)) :]


def cut_middle(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.sample(range(len(data)), 2))
    return data[:start] + data[end:]


def cut_end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:]


def zero(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    length = rng.choice([1, 4, 30, 500])
    return (
        data[:start] + bytes(len(data[start : start + length])) + data[start:][length:]
    )


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.sample(range(len(data)), 2))
    return data[:end] + data[start:]


def _flip(data: bytes, rng: random.Random, start: int, end: int) -> bytes:
    place = rng.randrange(max(0, start), min(end, len(data)))
    return (
        data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    )


# Of the headers of a zip archive.


def damage_zip_header(data: bytes, rng: random.Random) -> bytes:
    """Puts an extreme number into a field of one of the headers."""
    sizes = {b"PK\1\2": 46, b"PK\3\4": 30, b"PK\5\6": 22, b"PK\6\6": 56, b"PK\6\7": 20}
    signature = rng.choice([s for s in sizes if s in data])
    places = [i for i in range(len(data)) if data.startswith(signature, i)]
    width = rng.choice([1, 2, 4, 8])
    place = rng.choice(places) + rng.randrange(sizes[signature] - width)
    number = rng.choice([*EXTREMES, rng.getrandbits(64)]) % 2 ** (8 * width)
    return data[:place] + number.to_bytes(width, "little") + data[place + width :]


# Of the pickle.


def flip_pickle(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 3])):
        data = _flip(data, rng, 0, len(data))
    return data


def cut_pickle(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([cut_start, cut_middle, cut_end])(data, rng)


def delete_instruction(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    del parts[rng.randrange(len(parts))]
    return b"".join(parts)


def repeat_instruction(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    place = rng.randrange(len(parts))
    return b"".join(parts[:place] + parts[place : place + 1] * 2 + parts[place + 1 :])


def move_instruction(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    part = parts.pop(rng.randrange(len(parts)))
    parts.insert(rng.randrange(len(parts)), part)
    return b"".join(parts)


def insert_instruction(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        parts.insert(rng.randrange(len(parts)), _random_instruction(rng))
    return b"".join(parts)


def change_number(data: bytes, rng: random.Random) -> bytes:
    """Puts an extreme number in the place of one in the pickle."""
    parts = _instructions(data)
    places = [i for i, part in enumerate(parts) if part[:1] in b"KMJ"]
    number = rng.choice(EXTREMES)
    parts[rng.choice(places)] = b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
    return b"".join(parts)


def change_text(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    places = [i for i, part in enumerate(parts) if part[:1] == b"X"]
    text = rng.choice(
        ["", "0", "cpu", "storage", "\x1b[2J", "a" * 2000, "\ud800", "é", "state_dict"]
    ).encode("utf-8", "surrogatepass")
    parts[rng.choice(places)] = b"X" + struct.pack("<I", len(text)) + text
    return b"".join(parts)


def change_name(data: bytes, rng: random.Random) -> bytes:
    """Puts another class or function in the place of one that the pickle names."""
    parts = _instructions(data)
    places = [i for i, part in enumerate(parts) if part[:1] == b"c"]
    parts[rng.choice(places)] = rng.choice(_NAMES)
    return b"".join(parts)


def change_memo(data: bytes, rng: random.Random) -> bytes:
    parts = _instructions(data)
    places = [i for i, part in enumerate(parts) if part[:1] in b"qrhj"]
    if not places:
        return b"\x80\x02r\xff\xff\xff\x7f" + data
    code = rng.choice([b"r", b"j"])
    index = rng.choice([rng.randrange(2000), 2**20, 2**27, 2**31, 2**32 - 1])
    parts[rng.choice(places)] = code + struct.pack("<I", index)
    return b"".join(parts)


_NAMES = [
    b"c__builtin__\n%b\n" % name
    for name in (b"eval", b"getattr", b"list", b"dict", b"set", b"tuple", b"int")
] + [
    b"cos\nsystem\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nLongStorage\n",
    b"ctorch\nByteStorage\n",
    b"ctorch\nBFloat16Storage\n",
    b"ctorch\nQInt8Storage\n",
    b"ctorch\nSize\n",
    b"cyacs.config\nCfgNode\n",
    b"ccopy_reg\n_reconstructor\n",
    b"c\x1b[2J\n\xc3\xa9\n",
]


def _instructions(data: bytes) -> list[bytes]:
    places = [place for *_, place in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]


def _random_instruction(rng: random.Random) -> bytes:
    opcode = rng.choice(pickletools.opcodes)
    code = opcode.code.encode("latin-1")
    if opcode.arg is None:
        return code
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return code + rng.choice([b"1\n", b"a b\nc\n", b"p0\n", b"'x'\n", b"-7\n"])
    if opcode.arg.n >= 0:
        return code + rng.randbytes(opcode.arg.n)
    width = {-2: 1, -3: 4, -4: 4, -5: 8}[opcode.arg.n]
    text = rng.randbytes(rng.choice([0, 1, 3, 8]))
    size = rng.choice([len(text)] * 4 + [2 ** (8 * width - 1), 2 ** (8 * width) - 1])
    return code + size.to_bytes(width, "little") + text


# Of the members of an archive.


def drop_member(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    dropped = rng.choice(list(members))
    return {name: data for name, data in members.items() if name != dropped}


def swap_members(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    first, second = rng.sample(list(members), 2)
    return {**members, first: members[second], second: members[first]}


def resize_member(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    name = rng.choice(list(members))
    data = rng.choice(
        [members[name][:-1], members[name] + b"\0", b"", members[name] * 2]
    )
    return {**members, name: data}


def rename_member(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    old = rng.choice(list(members))
    new = rng.choice(["/abs", "../up", old + "\0x", old.upper(), "b/data.pkl", "é"])
    return {(new if name == old else name): data for name, data in members.items()}


def turn_bytes(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    root = next(iter(members)).partition("/")[0]
    order = rng.choice([b"big", b"little", b"middle", b"", b"b" * 100])
    return {**members, f"{root}/byteorder": order}


def _unpack(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(members: dict[str, bytes], **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def deflate(data: bytes, rng: random.Random) -> bytes:
    methods = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    return _pack(_unpack(data), compression=rng.choice(methods))


def _of_members(change: Members) -> Bytes:
    return lambda data, rng: _pack(change(_unpack(data), rng))


def _of_pickle(change: Bytes) -> Bytes:
    def changed(members: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
        (name,) = [name for name in members if name.endswith("/data.pkl")]
        return {**members, name: change(members[name], rng)}

    return _of_members(changed)


# Of safetensors.


def flip_header(data: bytes, rng: random.Random) -> bytes:
    return _flip(data, rng, 8, 8 + struct.unpack("<Q", data[:8])[0])


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


_DTYPES = [
    "F64",
    "F16",
    "BF16",
    "I32",
    "U32",
    "BOOL",
    "C64",
    "F8_E4M3",
    "F8_E8M0",
    "F4",
]
_DTYPES += ["F6_E2M3", "", "f32", "\x1b[2J", 1, None]

ANY = [flip_bit, flip_bits, flip_start, flip_end, cut_start, cut_middle, cut_end]
ANY += [insert, zero, repeat]
PICKLE = [flip_pickle, cut_pickle, delete_instruction, repeat_instruction]
PICKLE += [move_instruction, insert_instruction, change_number, change_text]
PICKLE += [change_name, change_memo]
MEMBERS = [drop_member, swap_members, resize_member, rename_member, turn_bytes]
SAFETENSORS = [flip_header, change_length, change_header]

OF_PTH: dict[str, Bytes] = {
    **{change.__name__: change for change in [*ANY, damage_zip_header, deflate]},
    **{change.__name__: _of_pickle(change) for change in PICKLE},
    **{change.__name__: _of_members(change) for change in MEMBERS},
}
OF_SAFETENSORS: dict[str, Bytes] = {
    change.__name__: change for change in [*ANY, *SAFETENSORS]
}
