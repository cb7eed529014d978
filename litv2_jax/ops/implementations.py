"""Implementations of an operation: the one of each platform, and how to choose another.

All implementations of an operation compute the same function of the same arguments;
parameters and results do not depend on the choice. docs/benchmarks.md has the
measurements.
"""

import contextlib
import contextvars
import difflib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

_CHOSEN: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar(
    "implementations", default=None
)


class Operation:
    """An operation that platforms compute fastest in different ways.

    Attributes:
        name: As `use_implementation` takes it.
        implementations: Functions of arrays and keyword options, by name.
        cpu: Name of the one for CPUs.
        default: Name of the one for GPUs and everything else.
    """

    def __init__(
        self,
        name: str,
        implementations: Mapping[str, Callable[..., Any]],
        *,
        cpu: str,
        default: str,
    ):
        """Adds the operation to those that `use_implementation` knows."""
        self.name = name
        self.implementations = dict(implementations)
        self.cpu, self.default = cpu, default
        OPERATIONS[name] = self

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        """Returns the result by the implementation of the program's platform."""
        run = {
            name: functools.partial(function, **options)
            for name, function in self.implementations.items()
        }
        chosen = (_CHOSEN.get() or {}).get(self.name)
        if chosen or self.cpu == self.default:
            return run[chosen or self.cpu](*arrays)
        return jax.lax.platform_dependent(
            *arrays, cpu=run[self.cpu], default=run[self.default]
        )


# By name; filled by these modules.
OPERATIONS: dict[str, Operation] = {}
_MODULES = ("attention", "depthwise", "histogram", "layer_norm", "linear")


@contextlib.contextmanager
def use_implementation(**names: str) -> Iterator[None]:
    """Chooses implementations, whatever the platform, for what is traced meanwhile.

    For export, debugging and measurements. What `jax.jit` has traced before keeps its
    implementations: create and call jitted functions inside the `with` block.

    Args:
        **names: Implementation by operation, such as `attention="plain"`.

    Raises:
        ValueError: If there is no such operation or implementation.
    """
    for module in _MODULES:
        importlib.import_module(f"litv2_jax.ops.{module}")
    for operation, name in names.items():
        _check(operation, OPERATIONS, "operation with a choice of implementations")
        known = OPERATIONS[operation].implementations
        _check(name, known, f"implementation of {operation}")
    token = _CHOSEN.set({**(_CHOSEN.get() or {}), **names})
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def _check(name: str, known: Mapping[str, Any], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"There is no {what} called {name!r}; there are {', '.join(known)}.{hint}"
        )
