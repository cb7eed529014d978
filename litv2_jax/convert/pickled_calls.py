"""What the calls in a pickle stand for; none of them is executed.

A pickle builds objects by calling what it names. Here a call gives a `Tensor`, a plain
container or an `Inert`; a call that may do more than create data is refused.
"""

import functools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any

from litv2_jax.convert.errors import TorchFileError, UnsafeFileError
from litv2_jax.convert.pickled_objects import Global, Inert, Storage, Tensor


def find(module: str, name: str) -> Global:
    """Returns a global by its name in Python 3.

    Protocol 2 has the names of Python 2, such as __builtin__ and commands.
    """
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return Global(IMPORT_MAPPING.get(module, module), name)


def call(function: Any, arguments: Any, *, is_class: bool = False) -> Any:
    """Returns what a call stands for.

    Args:
        function: What is called.
        arguments: A tuple of them.
        is_class: Whether it is called as a class, to create an object.

    Raises:
        UnsafeFileError: If the call could run code.
        TorchFileError: If PyTorch never makes such a call.
    """
    if not isinstance(function, Global):
        raise UnsafeFileError(
            "it asks for a function that it makes up to be called on loading, which "
            "can run any code"
        )
    if type(arguments) is not tuple:
        raise TorchFileError(f"it calls {function} without arguments")
    if is_class and _KNOWN.get(function) in _NO_CLASSES:
        raise TorchFileError(f"it makes an object of {function}, which is no class")
    arguments = arguments[:16]  # More would let hostile files take time.
    for argument in arguments:
        if isinstance(argument, Global) and _is_code(argument):
            raise _unsafe(argument)
    if function in _KNOWN:
        return _KNOWN[function](function, *arguments)
    if not _makes_data(function):
        raise _unsafe(function)
    if len(arguments) == 1 and isinstance(arguments[0], Inert):
        return arguments[0]  # A kind of dictionary, from its items.
    return Inert(function)


def refuse_change(function: Global) -> UnsafeFileError:
    """Returns the error about a pickle that sets attributes of a class or function."""
    return UnsafeFileError(
        f"it asks for {function} to be changed on loading, which can run any code"
    )


def _unsafe(function: Global) -> UnsafeFileError:
    return UnsafeFileError(
        f"it asks for {function} to be called on loading, which can run any code; do "
        "not load it with PyTorch either, unless you trust who made it"
    )


def _other_arguments(function: Global) -> TorchFileError:
    return TorchFileError(f"it calls {function} with arguments that it does not take")


def _tensor(function: Global, storage: Any = None, *layout: Any) -> Any:
    """Stands in for torch._utils._rebuild_tensor and its second version."""
    if isinstance(storage, Inert):
        return Inert(function)
    if not isinstance(storage, Storage) or len(layout) < 3:
        raise _other_arguments(function)
    # After the gradient and its hooks: whether numbers are conjugated or negated.
    return Inert(function) if any(layout[5:6]) else Tensor(storage, *layout[:3])


def _parameter(function: Global, data: Any = None, *rest: Any) -> Any:
    """Stands in for torch._utils._rebuild_parameter and other wrappers of tensors."""
    if not rest or not isinstance(data, Tensor | Inert):
        raise _other_arguments(function)
    return data


def _tuple(function: Global, items: Any = (), *rest: Any) -> Any:
    """Stands in for tuple and torch.Size."""
    if rest:
        raise _other_arguments(function)
    return items if type(items) is tuple else Inert(function)


def _from_type(
    function: Global, rebuild: Any = None, _: Any = None, arguments: Any = (), *__: Any
) -> Any:
    """Stands in for torch._tensor._rebuild_from_type_v2: a tensor with attributes."""
    is_tensor = isinstance(rebuild, Global) and rebuild in _TENSORS
    if is_tensor and type(arguments) is tuple:
        return _tensor(rebuild, *arguments[:16])
    return Inert(function)


def _dictionary(function: Global, *arguments: Any) -> Any:
    """Stands in for dict and its subclasses: empty, or with the items of another."""
    if len(arguments) > 1 + (function.name == "defaultdict"):
        raise _other_arguments(function)
    is_copy = len(arguments) == 1 and isinstance(arguments[0], Inert)
    return arguments[0] if is_copy else Inert(function if arguments else None)


def _object(function: Global, kind: Any = None, *_: Any) -> Inert:
    """Stands in for copyreg's functions, which make an object of a class."""
    if not isinstance(kind, Global):
        raise _other_arguments(function)
    if not (kind in _KNOWN or _makes_data(kind)):
        raise _unsafe(kind)
    return Inert(kind)


def _attribute(function: Global, whole: Any = None, name: Any = None, *_: Any) -> Any:
    """Stands in for getattr, if it takes a method or a member of a class."""
    _check_class(function, whole)
    if type(name) is not str or len(whole.name) + len(name) > _MAX_NAME:
        return Inert(function)
    return Global(whole.module, f"{whole.name}.{name}")


def _item(function: Global, whole: Any = None, *_: Any) -> Inert:
    """Stands in for getitem, if it makes a type such as Optional[int]."""
    _check_class(function, whole)
    return Inert(function)


def _check_class(function: Global, whole: Any) -> None:
    is_class = isinstance(whole, Global) and (
        whole.module == "typing" or _KNOWN.get(whole) is _inert or _makes_data(whole)
    )
    if not is_class:
        raise _unsafe(function)


def _inert(function: Global, *_: Any) -> Inert:
    return Inert(function)


_NO_CLASSES = (_tensor, _parameter, _from_type, _object, _attribute, _item)
_TENSORS = frozenset(
    Global("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")
)
# Prefixes of the functions that create objects, by package.
_REBUILDERS = {"torch": "_rebuild_", "numpy": "__pyx_unpickle_"}
_MAX_NAME = 200
_PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"
# By module: what a call stands for.
_STANDS_FOR: dict[str, dict[Callable[..., Any], str]] = {
    "torch._utils": {
        _tensor: "_rebuild_tensor _rebuild_tensor_v2",
        _parameter: "_rebuild_parameter _rebuild_parameter_with_state "
        "_rebuild_device_tensor_from_cpu_tensor",
    },
    "torch._tensor": {_from_type: "_rebuild_from_type_v2"},
    "torch": {_tuple: "Size"},
    "torch.serialization": {_inert: "_get_layout"},
    "numpy.random._pickle": {
        _inert: "__randomstate_ctor __generator_ctor __bit_generator_ctor"
    },
    "builtins": {
        _dictionary: "dict",
        _tuple: "tuple",
        _attribute: "getattr",
        _inert: "bool bytearray bytes complex float frozenset int list object range "
        "set slice str",
    },
    "collections": {
        _dictionary: "OrderedDict defaultdict Counter",
        _inert: "ChainMap UserDict UserList deque",
    },
    "copyreg": {_object: "_reconstructor __newobj__ __newobj_ex__"},
    # Protocol 2 writes bytes with it.
    "_codecs": {_inert: "encode"},
    "_operator": {_item: "getitem"},
    "operator": {_item: "getitem"},
    # The rest of the standard library that holds data.
    "_io": {_inert: "BytesIO StringIO"},
    "argparse": {_inert: "Namespace"},
    "array": {_inert: "_array_reconstructor array"},
    "datetime": {_inert: "date datetime time timedelta timezone"},
    "decimal": {_inert: "Decimal"},
    "fractions": {_inert: "Fraction"},
    "functools": {_inert: "partial"},
    "logging": {_inert: "getLogger Logger RootLogger"},
    "random": {_inert: "Random"},
    "re": {_inert: "_compile"},
    "signal": {_inert: "Signals"},
    "time": {_inert: "struct_time"},
    "types": {_inert: "SimpleNamespace"},
    "uuid": {_inert: "SafeUUID UUID"},
    "zoneinfo": {_inert: "ZoneInfo ZoneInfo._unpickle"},
    "pathlib": {_inert: _PATHS},
    "pathlib._local": {_inert: _PATHS},
}
_KNOWN = {
    Global(module, name): function
    for module, functions in _STANDS_FOR.items()
    for function, names in functions.items()
    for name in names.split()
}
_DATA_FUNCTIONS = frozenset(
    ["_frombuffer", "_mareconstruct", "_reconstruct", "device", "dtype", "ndarray"]
    + ["scalar"]
)


def _is_standard(function: Global) -> bool:
    """Whether a name belongs to the standard library, or reaches into it."""
    parts = [function.module.partition(".")[0], *function.name.split(".")[:-1]]
    return any(part.lstrip("_") in _STANDARD for part in parts)


_STANDARD = frozenset(name.lstrip("_") for name in sys.stdlib_module_names) - {"main"}


@functools.lru_cache(1000)
def _is_code(function: Global) -> bool:
    """Whether a function must not even be passed to another one."""
    return (
        _is_standard(function)
        and function not in _KNOWN
        and function.module not in ("typing", "collections.abc")
    )


@functools.lru_cache(1000)
def _makes_data(function: Global) -> bool:
    """Whether a call of what is not in the tables only creates data.

    For the standard library, the tables are complete. Elsewhere a capital marks a
    class; PyTorch's other functions that rebuild tensors make kinds that are not read.
    """
    if _is_standard(function):
        return False
    last = function.name.rpartition(".")[2]
    package = function.module.partition(".")[0]
    if last.startswith(_REBUILDERS.get(package, "\n")):
        return True
    return last.lstrip("_")[:1].isupper() or last in _DATA_FUNCTIONS
