"""What the instructions of a pickle do to a stack and a memo.

Instructions copy nothing that they refer to and do not recurse, so that the time of
each is bounded by what it pops off the stack.
"""

import pickle
import pickletools
from collections.abc import Callable
from typing import Any

from litv2_jax.convert.errors import describe_value
from litv2_jax.convert.pickled_calls import call, find, refuse_change
from litv2_jax.convert.pickled_objects import Global, Inert, Storage

# An index in the memo is a count of instructions.
MAX_INSTRUCTIONS = 400_000  # A large model with its optimizer has 200,000.


class Machine:
    """The stack and the memo.

    A mark sets the stack aside until what is above the mark is popped.
    """

    def __init__(self, size: int):
        """Begins a pickle.

        Args:
            size: Bytes of the pickle and what follows it.
        """
        self.size = size
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop_to_mark(self) -> list[Any]:
        """Pops and returns what is above the last mark, and pops the mark."""
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items

    def pop(self, count: int) -> tuple[Any, ...]:
        """Pops and returns the last items of the stack."""
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


def _mark(machine: Machine) -> None:
    machine.outer_stacks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _tuple_of(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.pop(count))


def _dict(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.stack.append(Inert())
    _put(machine, items)


def _frozenset(machine: Machine) -> None:
    machine.pop_to_mark()
    machine.stack.append(Inert())


def _put(machine: Machine, items: list[Any] | tuple[Any, ...]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Inert):
        raise TypeError(f"items are assigned to a {type(target).__name__}")
    if len(items) % 2:
        raise ValueError("a key has no value")
    target.put(items[::2], items[1::2])


def _append(machine: Machine, items: list[Any] | tuple[Any, ...]) -> None:
    target = machine.stack[-1]
    if type(target) is list:
        target.extend(items)
    elif not isinstance(target, Inert):  # That forgets the items of a list or set.
        raise TypeError(f"items are appended to a {type(target).__name__}")


def _get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise ValueError(f"nothing is in place {describe_value(index)} of the memo")
    machine.stack.append(machine.memo[index])


def _memoize(machine: Machine, index: int | None = None) -> None:
    if index is None:
        index = len(machine.memo)
    if not 0 <= index <= MAX_INSTRUCTIONS:
        raise ValueError("a place in the memo has too high a number")
    machine.memo[index] = machine.stack[-1]


def _push_global(machine: Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise TypeError("a name is not text")
    machine.stack.append(find(module, name))


def _stack_global(machine: Machine) -> None:
    module, name = machine.pop(2)
    _push_global(machine, module, name)


def _push_named(machine: Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    _push_global(machine, module, name)


def _call(machine: Machine) -> None:
    function, arguments = machine.pop(2)
    machine.stack.append(call(function, arguments))


def _make_object(machine: Machine, count: int) -> None:
    """Makes an object of a class; keyword arguments, at the end, are ignored."""
    kind, arguments, *_ = machine.pop(count)
    machine.stack.append(call(kind, arguments, is_class=True))


def _make_marked(machine: Machine) -> None:
    kind, *arguments = machine.pop_to_mark()
    machine.stack.append(call(kind, tuple(arguments), is_class=True))


def _make_named(machine: Machine, names: str) -> None:
    arguments = machine.pop_to_mark()
    _push_named(machine, names)
    kind = machine.stack.pop()
    machine.stack.append(call(kind, tuple(arguments), is_class=True))


def _check_protocol(machine: Machine, protocol: int) -> None:
    if protocol > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"{protocol} is no version of the format")


def _build(machine: Machine) -> None:
    """Drops the attributes of an object."""
    target, _ = machine.pop(2)
    if isinstance(target, Global):
        raise refuse_change(target)
    if not isinstance(target, Inert):
        raise TypeError(f"attributes of a {type(target).__name__} are set")
    machine.stack.append(target)


def _push_storage(machine: Machine) -> None:
    pid = machine.pop(1)[0]
    if type(pid) is tuple and len(pid) in (5, 6) and pid[0] == "storage":
        kind, key, size = pid[1], pid[2], pid[4]
        if isinstance(kind, Global) and type(key) is str and type(size) is int:
            # PyTorch before 1.6 had a sixth part; such storages are not read.
            is_old = len(pid) == 6
            machine.stack.append(Inert(kind) if is_old else Storage(kind, key, size))
            return
    raise TypeError("a storage is not described as PyTorch does")


def _check_frame(machine: Machine, size: int) -> None:
    if size > machine.size:
        raise ValueError("it ends within a frame")


_SAME_FOR_ALL: dict[Callable[..., None], str] = {
    _push: "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8",
    _get: "GET BINGET LONG_BINGET",
    _memoize: "PUT BINPUT LONG_BINPUT MEMOIZE",
}
_ACTIONS: dict[str, Callable[..., None]] = {
    **{name: act for act, names in _SAME_FOR_ALL.items() for name in names.split()},
    "PROTO": _check_protocol,
    "FRAME": _check_frame,
    "NONE": lambda machine: machine.stack.append(None),
    "NEWTRUE": lambda machine: machine.stack.append(True),
    "NEWFALSE": lambda machine: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_DICT": lambda machine: machine.stack.append(Inert()),
    "EMPTY_SET": lambda machine: machine.stack.append(Inert()),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda machine: machine.pop_to_mark(),
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine: _push(machine, machine.pop_to_mark()),
    "TUPLE": lambda machine: _push(machine, tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict,
    "FROZENSET": _frozenset,
    "SETITEM": lambda machine: _put(machine, machine.pop(2)),
    "SETITEMS": lambda machine: _put(machine, machine.pop_to_mark()),
    "APPEND": lambda machine: _append(machine, machine.pop(1)),
    "APPENDS": lambda machine: _append(machine, machine.pop_to_mark()),
    "ADDITEMS": lambda machine: _append(machine, machine.pop_to_mark()),
    "GLOBAL": _push_named,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": lambda machine: _make_object(machine, 2),
    "NEWOBJ_EX": lambda machine: _make_object(machine, 3),
    "OBJ": _make_marked,
    "INST": _make_named,
    "BUILD": _build,
    "BINPERSID": _push_storage,
}
# The kind of argument and what to do, by the byte of the instruction.
INSTRUCTIONS = {
    opcode.code.encode("latin-1"): (opcode.arg, _ACTIONS[opcode.name])
    for opcode in pickletools.opcodes
    if opcode.name in _ACTIONS
}
