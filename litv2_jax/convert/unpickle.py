"""Reads the pickle inside a PyTorch file, running nothing that it names.

Unpickling usually means importing and calling whatever the file says. Here tensors and
plain containers are built, every other class is stood in for by an inert dictionary,
and a file that asks for anything else to be called is refused.
"""

import collections
import dataclasses
import io
import math
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any

import ml_dtypes
import numpy as np

STORAGE_TYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class TorchFileError(ValueError):
    """A file that cannot be read as a PyTorch checkpoint."""


class UnsafeFileError(TorchFileError):
    """A file that asks for code to be run when it is loaded."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """One run of numbers beside the pickle, by its name there."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, in numbers rather than bytes; read only when wanted."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def unpickle(data: bytes) -> Any:
    """Returns what was pickled, with `Tensor` and inert dictionaries for objects.

    Raises:
        UnsafeFileError: If unpickling as usual would run code.
        TorchFileError: If the bytes are not a pickle that PyTorch would write.
    """
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except TorchFileError:
        raise
    except Exception as error:  # Damaged pickles raise errors of almost any type.
        raise TorchFileError(f"its pickle is damaged ({error})") from error


class _Inert(dict):
    """Stands in for an object of any class: keeps its items, does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        """Forgets the attributes."""

    def append(self, item):
        """Forgets an item of a list or set."""

    add = extend = append

    def __hash__(self):
        return id(self)


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_) -> Tensor:
    """Stands in for torch._utils._rebuild_tensor_v2."""
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise TorchFileError(f"a tensor has the impossible layout {numbers}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise TorchFileError(f"a tensor reaches beyond the end of {storage}")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, by which protocol 2 spells bytes."""
    if encoding != "latin1":
        raise TorchFileError(f"it holds bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": lambda *_: {},
    "copyreg._reconstructor": lambda *_: _Inert(),
    "torch.Size": tuple,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    **{
        f"builtins.{kind.__name__}": kind
        for kind in (complex, dict, frozenset, list, set, tuple)
    },
    **{f"torch.{name}": dtype for name, dtype in STORAGE_TYPES.items()},
}
# Of the standard library, only what holds data.
_DATA_MODULES = frozenset(
    ["argparse", "collections", "datetime", "decimal", "enum", "fractions", "functools"]
    + ["logging", "numbers", "pathlib", "random", "re", "time", "uuid"]
)
_DATA_FUNCTIONS = frozenset(["_reconstruct", "device", "dtype", "ndarray", "scalar"])


def _makes_data(module: str, name: str) -> bool:
    """Whether a call of this name can be taken for the making of a piece of data.

    It is not called in either case: this decides whether to stand in for the result or
    to warn of the file.
    """
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return package in _DATA_MODULES
    last = name.rpartition(".")[2]
    return last[:1].isupper() or last in _DATA_FUNCTIONS


def _refuse(full_name: str) -> Any:
    def new(cls, *args, **kwargs):
        raise UnsafeFileError(
            f"it asks for {full_name} to be called on loading, which can run any code; "
            "do not load it with PyTorch either, unless you trust who made it"
        )

    return type("_Refused", (_Inert,), {"__new__": new})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands in for the class or function of that name."""
        # Protocol 2 has the names of Python 2, such as __builtin__ and commands.
        module, name = NAME_MAPPING.get((module, name), (module, name))
        module = IMPORT_MAPPING.get(module, module)
        full_name = f"{module}.{name}"
        if full_name in _KNOWN:
            return _KNOWN[full_name]
        if _makes_data(module, name):
            return type("_Inert", (_Inert,), {})
        return _refuse(full_name)

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that a tensor of the pickle lies in."""
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise TorchFileError(f"it holds numbers of an unknown type, {pid!r}")
        return Storage(str(key), dtype, int(size))
