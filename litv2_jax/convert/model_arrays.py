"""The arrays of a module, each with its PyTorch name."""

import dataclasses
from collections.abc import Iterator, Mapping

from flax import nnx

from litv2_jax.convert.rules import AXES_FROM_TORCH, torch_names
from litv2_jax.models.family import family_of


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a module, here and in PyTorch.

    Attributes:
        torch_name: Its PyTorch name.
        path: Its path here, such as `backbone/stages/0/blocks/1/norm2/scale`.
        variable: Where it is kept here.
    """

    torch_name: str
    path: str
    variable: nnx.Variable

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch's layout."""
        shape = [0] * len(self.variable.shape)
        for ours, theirs in enumerate(AXES_FROM_TORCH[len(shape)]):
            shape[theirs] = self.variable.shape[ours]
        return tuple(shape)


def torch_entries(
    module: nnx.Module, torch_name: str = "", path: str = ""
) -> Iterator[Entry]:
    """Returns the arrays of a module with their PyTorch names, one after the other.

    Args:
        module: A module of this package.
        torch_name: PyTorch name of the module itself.
        path: Path of the module itself.

    Raises:
        ValueError: If PyTorch names are not known for a part of the module.
    """
    return _list_entries(module, torch_names(), torch_name, path)


def head_entries(model: nnx.Module) -> list[Entry]:
    """Returns the arrays of the layers whose outputs are classes; none if unknown."""
    family = family_of(model)
    prefixes = tuple(f"{name}." for name in family.torch_heads) if family else ()
    if not prefixes:
        return []
    return [e for e in torch_entries(model) if e.torch_name.startswith(prefixes)]


def _list_entries(
    module: nnx.Module,
    table: Mapping[type, Mapping[str, str]],
    torch_name: str,
    path: str,
) -> Iterator[Entry]:
    if type(module) not in table:
        known = ", ".join(sorted(kind.__name__ for kind in table))
        raise ValueError(
            f"No PyTorch names are known for a {type(module).__name__}; there are "
            f"names for {known}."
        )
    names = table[type(module)]
    for attribute, child in vars(module).items():
        if not isinstance(child, nnx.Variable | nnx.Module | nnx.List):
            continue
        children = enumerate(child) if isinstance(child, nnx.List) else [(None, child)]
        for index, item in children:
            item_name = _join(".", torch_name, names[attribute].format(index))
            item_path = _join("/", path, attribute, index)
            if isinstance(item, nnx.Variable):
                yield Entry(item_name, item_path, item)
            else:
                yield from _list_entries(item, table, item_name, item_path)


def _join(separator: str, *parts: object) -> str:
    return separator.join(str(part) for part in parts if part not in ("", None))
