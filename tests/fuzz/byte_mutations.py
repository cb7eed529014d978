"""Damages the bytes of any file; its checksums stay as they were."""

import random
from collections.abc import Callable

Bytes = Callable[[bytes, random.Random], bytes]
EXTREMES = [0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**61, 2**63]
EXTREMES += [2**62, -(2**31), 2**64 - 1, -(2**63)]


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    return flip(data, rng, 0, len(data))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(2, 20)):
        data = flip(data, rng, 0, len(data))
    return data


def flip_start(data: bytes, rng: random.Random) -> bytes:
    return flip(data, rng, 0, 300)


def flip_end(data: bytes, rng: random.Random) -> bytes:
    return flip(data, rng, len(data) - 1000, len(data))


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


def flip(data: bytes, rng: random.Random, start: int, end: int) -> bytes:
    place = rng.randrange(max(0, start), min(end, len(data)))
    return (
        data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    )


ANY = [flip_bit, flip_bits, flip_start, flip_end, cut_start, cut_middle, cut_end]
ANY += [insert, zero, repeat]
