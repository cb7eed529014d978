"""Reads the pickle inside a PyTorch file with a safe interpreter.

Unpickling usually means importing and calling whatever the file says. This interpreter
knows the instructions of a pickle and nothing else: no object of the file is called,
hashed, compared or printed, and none has attributes that could be set. What a call
stands for is in `pickled_calls`.

Time and memory are bounded by the number of instructions and of characters.
"""

import io
import pickletools
from typing import Any

from litv2_jax.convert.errors import TorchFileError, UnsafeFileError, printable
from litv2_jax.convert.pickle_instructions import (
    INSTRUCTIONS,
    MAX_INSTRUCTIONS,
    Machine,
)
from litv2_jax.convert.pickled_objects import Inert

# Longer texts and bytes, such as a log or the source of a recipe, are skipped.
MAX_TEXT = 1000
MAX_TEXT_IN_ALL = 16 * 2**20

# Bytes of the length of an argument.
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def unpickle(data: bytes) -> Any:
    """Returns what was pickled: `Tensor`s, plain containers and `Inert`s for objects.

    Raises:
        UnsafeFileError: If unpickling as usual would run code.
        TorchFileError: If the bytes are not a pickle that PyTorch would write, or have
            more instructions than any checkpoint.
    """
    interpreter = _Interpreter(data)
    contents = interpreter.run()
    if rest := len(data) - interpreter.position:
        raise TorchFileError(f"its pickle is damaged ({rest} bytes follow its end)")
    return contents


def check_pickles(data: bytes) -> None:
    """Reads the pickles that the bytes begin with, up to the first that is damaged.

    Raises:
        UnsafeFileError: If unpickling one as usual would run code.
    """
    interpreter = _Interpreter(data)
    try:
        while interpreter.position < len(data):
            interpreter.run()
    except UnsafeFileError:
        raise
    except TorchFileError:
        return


class _Interpreter:
    """Follows the instructions of one pickle after another.

    Attributes:
        position: Where the next pickle begins.
    """

    def __init__(self, data: bytes):
        self.position = 0
        self._data = data
        self._stream = io.BytesIO(data)
        self._num_instructions = 0
        self._text_left = MAX_TEXT_IN_ALL

    def run(self) -> Any:
        """Returns what the pickle at the position holds, and advances to its end."""
        try:
            return self._run(Machine(len(self._data)))
        except TorchFileError:
            raise
        except IndexError:
            reason = "an instruction has nothing to work on"
        # From the readers in pickletools, and from the instructions.
        except (ValueError, TypeError) as error:
            reason = printable(str(error)) or type(error).__name__
        raise TorchFileError(f"its pickle is damaged ({reason})")

    def _run(self, machine: Machine) -> Any:
        stream = self._stream
        while True:
            self._num_instructions += 1
            if self._num_instructions > MAX_INSTRUCTIONS:
                raise TorchFileError(
                    f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions, far "
                    "more than any weights need: save the state dict alone"
                )
            code = stream.read(1)
            if code == b".":
                self.position = stream.tell()
                return machine.stack.pop()
            if not code:
                raise ValueError("it ends too early")
            if code not in INSTRUCTIONS:
                raise ValueError(f"{code!r} is no instruction that PyTorch writes")
            argument, act = INSTRUCTIONS[code]
            if argument is None:
                act(machine)
            elif argument.n >= 0:
                act(machine, argument.reader(stream))
            else:
                act(machine, self._read_text(argument))

    def _read_text(self, argument: pickletools.ArgumentDescriptor) -> Any:
        """Returns an argument of any length; `Inert` for what is too long."""
        start = self._stream.tell()
        if argument.n == pickletools.UP_TO_NEWLINE:
            # Slow to read, and few in a checkpoint: the names of classes.
            self._num_instructions += 9
            end = start
            for _ in range(2 if argument is pickletools.stringnl_noescape_pair else 1):
                end = self._data.find(b"\n", end, end + MAX_TEXT) + 1
                if not end:
                    raise ValueError("a line is too long or has no end")
        else:
            width = _WIDTHS[argument.n]
            size = int.from_bytes(self._data[start : start + width], "little")
            end = start + width + size
            if end > len(self._data):
                raise ValueError("it ends within a text")
            if size > MAX_TEXT:
                self._stream.seek(end)
                return Inert()
        self._text_left -= end - start
        if self._text_left < 0:
            raise TorchFileError(
                f"its pickle has more than {MAX_TEXT_IN_ALL // 2**20} MB of names and "
                "short texts: save the state dict alone"
            )
        return argument.reader(self._stream)
