"""Fills a module from PyTorch arrays, completely or not at all, and the reverse."""

import collections
import dataclasses
import logging
from collections.abc import Mapping
from os import PathLike

import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.convert import identify
from litv2_jax.convert.adapt import adapt_first_layer, leave_out_head
from litv2_jax.convert.errors import printable
from litv2_jax.convert.model_arrays import Entry, head_entries, torch_entries
from litv2_jax.convert.rules import AXES_FROM_TORCH
from litv2_jax.convert.torch_file import read_torch_checkpoint
from litv2_jax.models.families import CLASSIFIER

_COUNT = "num_batches_tracked"
_MAX_LINES = 1000  # Of a message about arrays; the largest model has fewer.


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What `load_torch_weights` did.

    Attributes:
        loaded: The arrays filled.
        missing: PyTorch names that only the model has; their arrays are unchanged.
        unexpected: PyTorch names that only the file has.
    """

    loaded: list[Entry]
    missing: list[str]
    unexpected: list[str]


def load_torch_weights(
    model: nnx.Module,
    path_or_state_dict: str | PathLike | Mapping[str, np.ndarray],
    strict: bool = True,
    entry: str | None = None,
) -> LoadReport:
    """Fills a module with PyTorch weights, in place; an error leaves it unchanged.

    A segmentation model or detector takes the backbone of a classifier's weights, as
    training from ImageNet does, and a warning names the parts that stay unchanged.
    Warnings say, too, if a classifier without classes leaves out the head, or if the
    first layer is adapted to images of other than three channels (see `convert.adapt`).
    BatchNorm's counts of batches, on which nothing depends, may be absent: they become
    0.

    Args:
        model: A model of this package or any part of one, such as a HiLo.
        path_or_state_dict: A file for `read_torch_checkpoint`, or arrays by the names
            and in the layouts of the original code.
        strict: Whether missing and unexpected names are an error; otherwise they are
            logged as a warning and returned.
        entry: Which weights of a file to take, as in `read_torch_checkpoint`.

    Raises:
        FileNotFoundError, TorchFileError: If the file cannot be read.
        ValueError: If an array is missing, unexpected, misshaped, of the wrong type or
            not finite. The message lists them all and names the likely cause.
    """
    if isinstance(path_or_state_dict, Mapping):
        arrays = {name: np.asarray(x) for name, x in path_or_state_dict.items()}
    else:
        arrays = read_torch_checkpoint(path_or_state_dict, entry)
    match = match_weights(model, arrays, strict)
    for warning in match.warnings:
        logging.warning("%s", warning)
    for target, array in match.pairs:
        array = array.transpose(AXES_FROM_TORCH[array.ndim])
        target.variable.set_value(jnp.asarray(array, target.variable.dtype))
    return LoadReport([e for e, _ in match.pairs], match.missing, match.unexpected)


@dataclasses.dataclass(frozen=True)
class Match:
    """The arrays of a file, assigned to those of a model.

    Attributes:
        pairs: What to fill, and the array for it in PyTorch's layout.
        missing: PyTorch names that only the model has.
        unexpected: PyTorch names that only the file has.
        warnings: Sentences for the log.
    """

    pairs: list[tuple[Entry, np.ndarray]]
    missing: list[str]
    unexpected: list[str]
    warnings: list[str]


def match_weights(
    model: nnx.Module,
    arrays: dict[str, np.ndarray],
    strict: bool = True,
    *,
    new_head: bool = False,
) -> Match:
    """Finds out what `load_torch_weights` would do, for a model or only its shapes.

    Args:
        model: As in `load_torch_weights`, or its `nnx.eval_shape`.
        arrays: By PyTorch name.
        strict: As in `load_torch_weights`.
        new_head: Whether the layers whose outputs are classes are to stay as they are.
            Those of the file may have another number of classes.

    Raises:
        ValueError: As `load_torch_weights`.
    """
    all_entries = list(torch_entries(model))
    entries, arrays, unused = _match_backbone(all_entries, arrays)
    if new_head:
        entries, arrays = _leave_out_head(model, entries, arrays)
    arrays, warnings = leave_out_head(model, arrays)
    for adapt in (adapt_first_layer, _with_counts):
        arrays, notes = adapt(entries, arrays)
        warnings += notes
    missing = [entry for entry in entries if entry.torch_name not in arrays]
    pairs = [(e, arrays[e.torch_name]) for e in entries if e.torch_name in arrays]
    unexpected = sorted(arrays.keys() - {entry.torch_name for entry in entries})
    problems = [problem for pair in pairs if (problem := _check(*pair))]
    absences = [f"{e.torch_name} {e.torch_shape}: not in the file" for e in missing]
    absences += [
        f"{printable(n)} {arrays[n].shape}: not in the model" for n in unexpected
    ]
    if problems or (strict and absences):
        hint = identify.explain_difference(
            {name: array.shape for name, array in arrays.items()},
            {e.torch_name: e.torch_shape for e in entries},
        )
        lines = [*problems, *absences]
        raise ValueError(
            f"These weights do not fit the model. {hint} {len(lines)} misfits:\n  "
            + _join_lines(lines)
        )
    if absences:
        warnings.append(f"Not everything was loaded:\n  {_join_lines(absences)}")
    matched = {entry.torch_name for entry in entries}
    rest = [e.torch_name for e in all_entries if e.torch_name not in matched]
    if rest and not new_head:
        warnings.append(_explain_backbone_alone(rest))
    missing = [entry.torch_name for entry in missing] + rest
    return Match(pairs, missing, unexpected + unused, warnings)


def _match_backbone(
    entries: list[Entry], arrays: dict[str, np.ndarray]
) -> tuple[list[Entry], dict[str, np.ndarray], list[str]]:
    """Picks the backbone if the weights are a classifier's and the model is not one.

    Returns:
        The entries to fill, the arrays by their names, and the names in the file of the
        arrays that are left; otherwise all entries and arrays, and none left.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    ours = identify.find_family({e.torch_name: e.torch_shape for e in entries})
    if identify.find_family(shapes) is not CLASSIFIER or ours in (None, CLASSIFIER):
        return entries, arrays, []
    unused = sorted(n for n in arrays if n.split(".")[0] in ("norm", "head"))
    arrays = {f"backbone.{n}": x for n, x in arrays.items() if n not in unused}
    return [e for e in entries if identify.is_backbone(e.torch_name)], arrays, unused


def _leave_out_head(
    model: nnx.Module, entries: list[Entry], arrays: dict[str, np.ndarray]
) -> tuple[list[Entry], dict[str, np.ndarray]]:
    """Leaves out the head, but for arrays of the file that it could not have.

    Those stay, so that a damaged file is refused.
    """
    head = {entry.torch_name: entry.torch_shape[1:] for entry in head_entries(model)}
    fitting = {n for n, x in arrays.items() if x.ndim and x.shape[1:] == head.get(n)}
    arrays = {name: array for name, array in arrays.items() if name not in fitting}
    return [e for e in entries if e.torch_name not in head], arrays


def _with_counts(
    entries: list[Entry], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Adds counts of batches, all 0, to weights that have none, and a sentence on it.

    Some codes leave them out, and so did PyTorch before 0.4.1.
    """
    wanted = {entry.torch_name for entry in entries}
    counts = {name for name in wanted if name.endswith(_COUNT)}
    if not counts or counts & arrays.keys() or not wanted & arrays.keys():
        return arrays, []
    zeros = {name: np.zeros((), np.int64) for name in sorted(counts)}
    return {**arrays, **zeros}, [f"The weights have no {_COUNT}: these are set to 0."]


def _join_lines(lines: list[str]) -> str:
    rest = len(lines) - _MAX_LINES
    return "\n  ".join(lines[:_MAX_LINES] + [f"and {rest} more"] * (rest > 0))


def _explain_backbone_alone(rest: list[str]) -> str:
    counts = collections.Counter(
        name.split(".")[0] if "backbone" not in name else ".".join(name.split(".")[:2])
        for name in rest
    )
    parts = ", ".join(f"{name} ({count} arrays)" for name, count in counts.items())
    return (
        f"Only the backbone was loaded, from a classifier's weights; {parts} are as "
        "they were and have to be trained."
    )


def to_torch_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns the arrays of a module by their original names, in PyTorch's layouts.

    Raises:
        ValueError: If PyTorch names are not known for a part of the module.
    """
    arrays = {}
    for entry in torch_entries(model):
        array = np.asarray(entry.variable[...])
        axes = np.argsort(AXES_FROM_TORCH[array.ndim])
        # PyTorch counts batches in int64.
        dtype = np.int64 if array.dtype.kind == "i" else array.dtype
        arrays[entry.torch_name] = array.transpose(axes).astype(dtype, order="C")
    return arrays


def _check(entry: Entry, array: np.ndarray) -> str:
    """Returns what is wrong with an array, or ""."""
    if array.shape != entry.torch_shape:
        return (
            f"{entry.torch_name}: shape {array.shape} in the file, "
            f"{entry.torch_shape} in the model"
        )
    kind = entry.variable.dtype
    numbers = next(x for x in (jnp.floating, jnp.integer) if jnp.issubdtype(kind, x))
    if not jnp.issubdtype(array.dtype, numbers):
        return f"{entry.torch_name}: {array.dtype} where {kind} belongs"
    with np.errstate(over="ignore"):
        kept = np.asarray(array, kind)
    if numbers is jnp.integer and (kept != array).any():
        return f"{entry.torch_name}: values out of the range of {kind}"
    num_bad = array.size - int(np.isfinite(kept.astype(np.float64)).sum())
    if num_bad:
        return f"{entry.torch_name}: {num_bad} of {array.size} values are not finite"
    return ""
