"""Damages a pickle, down to its instructions."""

import pickletools
import random
import struct

from tests.fuzz.byte_mutations import EXTREMES, cut_end, cut_middle, cut_start, flip


def flip_pickle(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 3])):
        data = flip(data, rng, 0, len(data))
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
    places = [i for i, part in enumerate(parts) if part[:1] in b"X\x8c"]
    text = rng.choice(
        ["", "0", "cpu", "storage", "\x1b[2J", "a" * 2000, "\ud800", "é", "state_dict"]
    ).encode("utf-8", "surrogatepass")
    parts[rng.choice(places)] = b"X" + struct.pack("<I", len(text)) + text
    return b"".join(parts)


def change_name(data: bytes, rng: random.Random) -> bytes:
    """Puts another class or function in the place of one that the pickle names."""
    parts = _instructions(data)
    places = [i for i, part in enumerate(parts) if part[:1] in b"c\x93"]
    place = rng.choice(places)
    # Since protocol 4 a name is made of two texts on the stack.
    taken_off = b"00" if parts[place] == b"\x93" else b""
    parts[place] = taken_off + rng.choice(_NAMES)
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


CHANGES = [flip_pickle, cut_pickle, delete_instruction, repeat_instruction]
CHANGES += [move_instruction, insert_instruction, change_number, change_text]
CHANGES += [change_name, change_memo]
