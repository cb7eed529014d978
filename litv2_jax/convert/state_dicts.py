"""Finds state dicts in what a PyTorch file holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from litv2_jax.convert.entries import Entry, split
from litv2_jax.convert.errors import TorchFileError, describe_value, list_names
from litv2_jax.convert.pickled_objects import Inert, Tensor

_NO_TENSORS = (
    "it holds no tensors by name; if it holds a whole model, save its state_dict()"
)


def find_entries(contents: Any) -> list[Entry]:
    """Returns the sets of weights among what was saved, at most two levels deep.

    Args:
        contents: From `unpickle`.

    Raises:
        TorchFileError: If there are none; it names what the file holds instead.
    """
    found = []
    for label, values in _find_dictionaries(contents):
        if any(isinstance(x, Tensor) for x in values.values()):
            found += split(label, values, values.num_unnamed)
    if not found:
        raise _explain_absence(contents)
    return found


def check_tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the values, which must all be tensors.

    Raises:
        TorchFileError: If they are not.
    """
    tensors = {name: x for name, x in values.items() if isinstance(x, Tensor)}
    if len(tensors) < len(values):
        raise _explain_others(values)
    return tensors


def _find_dictionaries(contents: Any) -> Iterator[tuple[str, Inert]]:
    """Yields each dictionary once, with the keys that lead to it."""
    seen = set()
    level = [("", contents)]
    for _ in range(3):
        level = [(k, x) for k, x in level if isinstance(x, Inert)]
        below = []
        for label, values in level:
            if id(values) in seen:
                continue
            seen.add(id(values))
            yield label, values
            for key, value in values.items():
                # The moments of an optimizer may have the names of the weights.
                if "optim" not in key.lower():
                    below.append((f"{label}.{key}" if label else key, value))
        level = below


def _explain_absence(contents: Any) -> TorchFileError:
    if not isinstance(contents, Inert):
        return TorchFileError(
            f"it holds {describe_value(contents)} instead of a dictionary of tensors"
        )
    if contents.kind is not None and not contents:
        return TorchFileError(
            f"it holds a {contents.kind} instead of a dictionary of tensors; if that "
            "is a model, save its state_dict()"
        )
    for key in ("model", "state_dict"):
        if key in contents:
            contents = contents[key]
            break
    if not isinstance(contents, Inert) or not contents:
        return TorchFileError(_NO_TENSORS)
    return _explain_others(contents)


def _explain_others(values: Mapping[str, Any]) -> TorchFileError:
    others = {name: x for name, x in values.items() if not isinstance(x, Tensor)}
    names = [
        f"{name} (a {x.kind})" if isinstance(x, Inert) and x.kind else name
        for name, x in others.items()
    ]
    return TorchFileError(
        f"these of its entries are not tensors: {list_names(names)}; expected a state "
        "dict of dense tensors, alone or under a name such as 'model' or 'state_dict'"
    )
