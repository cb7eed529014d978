"""Counts the kernels, bytes and FLOPs of a program that XLA compiled for a GPU.

It reads the text of the optimised program, `compiled.as_text()`. Every instruction that
does something is one kernel. Its bytes are those that it has to fetch and to store:

- An operand counts once, however often the kernel reads it: the cache has it.
- An operand that is only sliced or gathered from counts as much as comes out, at most
  whole.
- A result that is an operand updated in place, by `dynamic-update-slice` or `scatter`,
  counts as much as the updates, at most whole; a scatter adds, so it reads as much too.
- Scratch space of the libraries does not count.

FLOPs are those of matrix products and convolutions, each addition and multiplication
being one, with cuBLAS's and cuDNN's. The body of a loop counts as often as XLA knows it
to run, once where it does not; every branch of a condition counts.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks import hlo_text
from benchmarks.hlo_text import Instruction, count_bytes, get_shape

# Instructions that start nothing.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_SLICES = {"slice", "dynamic-slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is started on the GPU at once.

    Attributes:
        name: Of the instruction.
        kind: What it is: the sort of a fusion, the library's function, or the opcode.
        type: Of the result.
        bytes_read: By the rules above; of one start, like the next two.
        bytes_written: The same.
        flops: Of matrix products and convolutions.
        count: How often it is started.
        ops: The opcodes inside with their numbers; `grouped-convolution` is one.
        source: The operation of JAX that it computes, with the scopes around it.
    """

    name: str
    kind: str
    type: str
    bytes_read: int
    bytes_written: int
    flops: int
    count: int
    ops: dict[str, int]
    source: str = ""

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written by all its starts."""
        return self.count * (self.bytes_read + self.bytes_written)


class Totals(NamedTuple):
    """Sums over kernels, each as often as it is started."""

    kernels: int
    bytes_moved: int
    flops: int


def add_up(kernels: Sequence[Kernel]) -> Totals:
    """Returns the sums."""
    return Totals(
        sum(kernel.count for kernel in kernels),
        sum(kernel.bytes_moved for kernel in kernels),
        sum(kernel.count * kernel.flops for kernel in kernels),
    )


def list_kernels(text: str) -> list[Kernel]:
    """Returns the kernels of a program in the order of the text."""
    return [
        Kernel(
            name=instruction.name,
            kind=_kind(instruction),
            type=instruction.type,
            bytes_read=sum(
                _bytes_used(operand, instruction)
                for operand in dict.fromkeys(instruction.operands)
            ),
            bytes_written=_bytes_written(instruction),
            flops=_flops(instruction),
            count=count,
            ops=dict(_count_ops(instruction)),
            source=instruction.find(r'op_name="([^"]*)"'),
        )
        for instruction, count in walk(hlo_text.parse(text))
    ]


def walk(
    computation: list[Instruction], count: int = 1
) -> Iterator[tuple[Instruction, int]]:
    """Yields what runs and how often, the computation itself running `count` times."""
    for instruction in computation:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            continue
        # What an all-reduce calls is how two numbers are added.
        is_wrapper = (
            opcode.endswith("-start")
            and opcode.removesuffix("-start") not in hlo_text.COLLECTIVES
            and instruction.called
        )
        if opcode in ("while", "conditional", "call") or is_wrapper:
            known = instruction.find(r'"known_trip_count":\{"n":"(\d+)"') or 1
            for called in instruction.called:
                yield from walk(called, count * int(known))
        else:
            yield instruction, count


def _kind(instruction: Instruction) -> str:
    if instruction.opcode == "custom-call":
        return instruction.find(r'custom_call_target="([^"]*)"')
    if instruction.opcode != "fusion":
        return instruction.opcode
    # Of custom fusions, who makes them: Triton or cuDNN.
    made_by = instruction.find(r'"kind":"__(\w+)"')
    return f"{made_by or instruction.find(r'kind=k(.+?),').lower()} fusion"


def _count_ops(instruction: Instruction) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    if instruction.opcode == "fusion":
        for inside in instruction.called[0]:
            counts.update(_count_ops(inside))
    elif instruction.opcode not in _FREE:
        counts[instruction.opcode] += 1
        groups = instruction.find(r"(?:feature|batch)_group_count=(\d+)")
        counts["grouped-convolution"] += int(groups or 1) > 1
    return +counts


def _bytes_used(operand: Instruction, user: Instruction) -> int:
    """Returns how much of an operand an instruction reads."""
    whole, used = count_bytes(operand.type), 0
    for i in (i for i, x in enumerate(user.operands) if x is operand):
        if user.opcode == "fusion":
            used += _bytes_used_inside(_parameter(user.called[0], i))
        elif user.opcode == "bitcast":
            used += _bytes_used_inside(user)
        elif user.opcode in _SLICES and i == 0:
            used += count_bytes(user.type)
        elif user.opcode == "scatter" and i == 0:
            used += count_bytes(user.operands[-1].type)
        elif user.opcode != "dynamic-update-slice" or i:
            used += whole
    return min(whole, used)


def _bytes_used_inside(value: Instruction) -> int:
    """Returns how much of a value the instructions of a fusion read."""
    whole = count_bytes(value.type)
    used = sum(_bytes_used(value, user) for user in value.users)
    return whole if value.is_root else min(whole, used)


def _parameter(computation: list[Instruction], index: int) -> Instruction:
    return next(
        x
        for x in computation
        if x.opcode == "parameter" and x.attributes.startswith(f"{index})")
    )


def _bytes_written(instruction: Instruction) -> int:
    opcode, operands = instruction.opcode, instruction.operands
    whole = count_bytes(instruction.type)
    if opcode == "fusion":
        return _bytes_written(next(x for x in instruction.called[0] if x.is_root))
    if opcode == "tuple":
        return sum(map(_bytes_written, operands))
    if opcode == "bitcast":
        return _bytes_written(operands[0])
    if opcode == "custom-call" and instruction.type.startswith("("):
        # Flat bytes are scratch space.
        return count_bytes(re.sub(r"\b[su]8\[\d*\]", "", instruction.type))
    if opcode == "scatter" and _is_buffer(operands[0]):
        return min(whole, count_bytes(operands[-1].type))
    if opcode == "dynamic-update-slice" and _is_buffer(operands[0]):
        return count_bytes(operands[1].type)
    return whole


def _is_buffer(instruction: Instruction) -> bool:
    """Whether a value is in memory, rather than made where a fusion needs it."""
    if instruction.opcode == "bitcast":
        return _is_buffer(instruction.operands[0])
    return instruction.opcode in {*_FREE, "fusion", "copy", "custom-call", "while"}


def _flops(instruction: Instruction) -> int:
    if instruction.opcode == "fusion":
        return sum(map(_flops, instruction.called[0]))
    kind = _kind(instruction)
    if kind == "dot" or kind.startswith("__cublas$"):
        return _flops_of_product(instruction)
    if kind.startswith("__cudnn$fmha"):
        return _flops_of_attention(instruction)
    if kind == "convolution" or kind.startswith("__cudnn$conv"):
        return _flops_of_convolution(instruction)
    return 0


def _flops_of_product(instruction: Instruction) -> int:
    # The library's description of it is JSON, whose numbers are strings.
    dimensions = instruction.find(
        r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]+)'
    ).replace('"', "")
    left = get_shape(instruction.operands[0].type)
    length = math.prod(left[int(i)] for i in dimensions.split(",") if i)
    return 2 * length * math.prod(get_shape(instruction.type))


def _flops_of_attention(instruction: Instruction) -> int:
    """Two products forward, five backward; queries, keys: [B, N, heads, C]."""
    query, key = (get_shape(x.type) for x in instruction.operands[:2])
    products = 5 if "Backward" in _kind(instruction) else 2
    return 2 * products * math.prod(query) * key[1]


def _flops_of_convolution(instruction: Instruction) -> int:
    """Multiplications of each output with a kernel, those with padding too."""
    kernel, output = instruction.operands[1].type, instruction.type
    if "BackwardInput" in _kind(instruction):
        output = instruction.operands[0].type
    elif "BackwardFilter" in _kind(instruction):
        kernel, output = instruction.type, instruction.operands[1].type
    labels = instruction.find(r"dim_labels=\w+_(\w+)->")
    features = get_shape(kernel)[labels.index("o")]
    groups = int(instruction.find(r"batch_group_count=(\d+)") or 1)
    weights = math.prod(get_shape(kernel)) // features
    return 2 * math.prod(get_shape(output)) * weights // groups
