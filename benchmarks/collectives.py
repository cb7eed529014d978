"""Lists what devices send each other in a program that XLA compiled for several."""

import collections
import dataclasses
from collections.abc import Iterable

from benchmarks import hlo, hlo_text
from benchmarks.hlo_text import Instruction, count_bytes


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange among devices.

    Attributes:
        kind: Such as `all-reduce`.
        type: Of what each device has afterwards, such as `f32[96,384]{1,0}`.
        count: How often it runs, by the rules of `hlo.walk`.
        source: Name that JAX gave the operation.
    """

    kind: str
    type: str
    count: int
    source: str

    @property
    def bytes(self) -> int:
        """Bytes that each device has afterwards, of all runs together."""
        return self.count * count_bytes(self.type)


def list_collectives(text: str) -> list[Collective]:
    """Returns the exchanges of a compiled program in the order of its text.

    Args:
        text: The optimized program, `compiled.as_text()`.
    """
    found = (read_collective(*x) for x in hlo.walk(hlo_text.parse(text)))
    return [collective for collective in found if collective]


def read_collective(instruction: Instruction, count: int) -> Collective | None:
    """Returns the exchange that an instruction, which runs `count` times, begins."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in hlo_text.COLLECTIVES:
        return None
    source = instruction.find(r'op_name="([^"]*)"')
    return Collective(kind, _result(instruction).type, count, source)


def add_up_bytes(collectives_: Iterable[Collective]) -> dict[str, int]:
    """Returns the bytes of each kind."""
    totals: collections.Counter[str] = collections.Counter()
    for collective in collectives_:
        totals[collective.kind] += collective.bytes
    return dict(totals)


def _result(instruction: Instruction) -> Instruction:
    """Returns the instruction whose type is the result's alone.

    The type of a `-start` may list the operands as well.
    """
    return next(
        (x for x in instruction.users if x.opcode.endswith("-done")), instruction
    )
