"""Damages files of weights, the same way for the same seed.

A mutation of the bytes of a file leaves its checksums as they were; one of a member
packs the archive again, so that nothing but the reader can notice.
"""

import io
import random
import zipfile
from collections.abc import Callable

from tests.fuzz import pickle_mutations, safetensors_mutations
from tests.fuzz.byte_mutations import ANY, EXTREMES, Bytes

Members = Callable[[dict[str, bytes], random.Random], dict[str, bytes]]


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


MEMBERS = [drop_member, swap_members, resize_member, rename_member, turn_bytes]

OF_PTH: dict[str, Bytes] = {
    **{change.__name__: change for change in [*ANY, damage_zip_header, deflate]},
    **{change.__name__: _of_pickle(change) for change in pickle_mutations.CHANGES},
    **{change.__name__: _of_members(change) for change in MEMBERS},
}
OF_SAFETENSORS: dict[str, Bytes] = {
    change.__name__: change for change in [*ANY, *safetensors_mutations.CHANGES]
}
