"""Reads the text of a program that XLA compiled: instructions and sizes."""

import dataclasses
import math
import re

_BYTES = {"pred": 1, "bf16": 2, "token": 0, "c64": 8, "c128": 16}
_BYTES |= {"f8e4m3fn": 1, "f8e5m2": 1}
_BYTES |= {f"{kind}{8 * size}": size for kind in "suf" for size in (1, 2, 4, 8)}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
# Opcodes by which devices exchange arrays; asynchronous ones end with `-start`.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclasses.dataclass(eq=False)
class Instruction:
    """One line of a program.

    Attributes:
        name: Its own.
        type: Of the result, such as `f32[3136,192]{1,0}`; brackets if of several.
        opcode: What it does.
        operands: What it works on.
        called: The computations it runs, each a list of instructions.
        attributes: The rest of the line.
        is_root: Whether its result is that of the computation.
        users: Those that work on its result.
    """

    name: str
    type: str
    opcode: str
    operands: list["Instruction"]
    called: list[list["Instruction"]]
    attributes: str
    is_root: bool
    users: list["Instruction"] = dataclasses.field(default_factory=list)

    def find(self, pattern: str) -> str:
        """Returns the group of the pattern in the attributes, or nothing."""
        return find(pattern, self.attributes)


def parse(text: str) -> list[Instruction]:
    """Returns the computation that runs; those it calls stand before it."""
    computations: dict[str, list[Instruction]] = {}
    names, entry = {}, ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            names = {}
            computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif match := _INSTRUCTION.match(line):
            root, name, shape, opcode, rest = match.groups()
            end = _closing_parenthesis(rest)
            operands = [names[x] for x in re.findall(r"%([\w.\-]+)", rest[:end])]
            called = [
                computations[x]
                for groups in _CALLED.findall(rest[end:])
                for x in re.findall(r"[\w.\-]+", " ".join(groups))
            ]
            names[name] = Instruction(
                name, shape, opcode, operands, called, rest, bool(root)
            )
            for operand in dict.fromkeys(operands):
                operand.users.append(names[name])
            computations[next(reversed(computations))].append(names[name])
    if not entry:
        raise ValueError("This is not the text of a compiled program: no ENTRY.")
    return computations[entry]


def _closing_parenthesis(text: str) -> int:
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return i
    return len(text)


def get_shape(text: str) -> list[int]:
    """Returns the sizes of the first array of a type."""
    return [int(size) for size in find(r"\[([\d,]*)\]", text).split(",") if size]


def count_bytes(text: str) -> int:
    """Returns the bytes of all arrays of a type."""
    return sum(
        _BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in _SHAPE.findall(text)
    )


def find(pattern: str, text: str) -> str:
    """Returns the group of the pattern in a text, or nothing."""
    match = re.search(pattern, text)
    return match[1] if match else ""
