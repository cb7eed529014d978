"""Stand-ins for the objects of a pickle: names, storages, tensors, dictionaries.

None of them has attributes that a pickle could set, and none is ever called.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from litv2_jax.convert.errors import printable


class Global(NamedTuple):
    """A class or function, by its name only."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class Storage(NamedTuple):
    """One run of numbers beside the pickle, by its name in the archive.

    Attributes:
        kind: The type of its numbers, such as torch.FloatStorage.
        key: Its name.
        size: Its length in numbers.
    """

    kind: Global
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage as the pickle describes it, unchecked."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


class Inert(dict):
    """A dictionary, or the stand-in for any other object.

    Only keys that are text are kept: no other object of a file is ever hashed.

    Attributes:
        kind: The class of the object; None for a plain dictionary.
        num_unnamed: Number of items with other keys.
    """

    __slots__ = ("kind", "num_unnamed")

    def __init__(self, kind: Global | None = None):
        super().__init__()
        self.kind = kind
        self.num_unnamed = 0

    def put(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Keeps items, as the assignment to keys of a dictionary does."""
        for key, value in zip(keys, values, strict=True):
            if type(key) is str:
                self[key] = value
            else:
                self.num_unnamed += 1
