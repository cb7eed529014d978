"""Chooses one of the sets of weights that a training code saved.

A file may hold several sets of weights: under `model` and `model_ema`, or in one state
dict under different prefixes. Notes name the set taken and the others. Wrappers of a
model, for data-parallel training or compilation, leave prefixes on all names, which are
removed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from litv2_jax.convert.errors import TorchFileError, list_names, printable

# Names in a LITv2: its first layer, and a classifier's last. Those of a dense model's
# backbone have a prefix.
FIRST_LAYER = "patch_embed.proj.weight"
CLASSIFIER_HEAD = "head"
BACKBONE = "backbone."

MAX_ARRAYS = 20_000

# Where training codes keep weights, in the order of preference; "" is the top level.
_PREFERRED = ("model", "state_dict", "", "model_state_dict", "module", "net", "network")
# Words in the names of an average of the weights over the steps.
_AVERAGES = ("ema", "swa", "averag", "teacher", "shadow")
# Counters that codes store beside averages.
_COUNTS = frozenset(["n_averaged", "steps", "step", "num_updates", "decay"])
# Prefixes that wrappers add to all names, and parts that they add anywhere in them.
_WRAPPERS = ("module.", "model.")
_INNER_WRAPPERS = frozenset(
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
    + ["_forward_module"]
)
_MAX_DEPTH = 8  # Parts of a prefix.


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set of weights in a file.

    Attributes:
        label: What to call it; empty for all that the file holds.
        values: What it holds, by names as a model has them.
        is_model: Whether it has the first layer of a LITv2.
        counts: Names of counters beside it, which are not weights.
        others: Names of anything else beside it.
        num_unnamed: Number of arrays whose names are not text, or too long.
    """

    label: str
    values: Mapping[str, Any]
    is_model: bool = False
    counts: Sequence[str] = ()
    others: Sequence[str] = ()
    num_unnamed: int = 0

    @property
    def is_average(self) -> bool:
        """Whether it seems to be an average of the weights over the steps."""
        return any(word in self.label.lower() for word in _AVERAGES)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Sort key; the best entry has the smallest."""
        top = self.label.partition(".")[0]
        place = _PREFERRED.index(top) if top in _PREFERRED else len(_PREFERRED)
        return not self.is_model, self.is_average, place


def choose(entries: list[Entry], wanted: str | None) -> tuple[Entry, list[str]]:
    """Returns the weights to take, and sentences about the choice.

    Args:
        entries: One or more, from `split`.
        wanted: Label of one of them; None for the best.

    Raises:
        TorchFileError: If there is no such label, or several are equally good.
    """
    entries = sorted(entries, key=lambda entry: entry.rank)
    if wanted is not None:
        matches = [entry for entry in entries if _matches(entry.label, wanted)]
        exact = [entry for entry in matches if entry.label == wanted]
        matches = exact or matches
        if not matches:
            raise TorchFileError(
                f"it has no entry '{printable(wanted)}': its weights are "
                f"{_labels(entries)}"
            )
    else:
        matches = [entry for entry in entries if entry.rank == entries[0].rank]
    if len(matches) > 1:
        raise TorchFileError(
            f"it holds several sets of weights, {_labels(entries)}: name one with "
            "--entry, or with entry= in Python"
        )
    taken = matches[0]
    if taken.num_unnamed:
        raise TorchFileError(
            f"{taken.num_unnamed} of its arrays have names that are no text, or are "
            "longer than any name"
        )
    if taken.others and wanted is None:
        raise TorchFileError(
            f"beside the weights under '{printable(taken.label)}' it holds "
            f"{list_names(sorted(taken.others))}: to take the weights alone, name them "
            f"with --entry {printable(taken.label)}, or with entry= in Python"
        )
    return taken, _explain(taken, [entry for entry in entries if entry is not taken])


def _matches(label: str, wanted: str) -> bool:
    return f".{label}.".startswith(f".{wanted}.") or label.endswith(f".{wanted}")


def _labels(entries: list[Entry]) -> str:
    return list_names([f"'{e.label}'" if e.label else "all of it" for e in entries])


def _explain(taken: Entry, others: list[Entry]) -> list[str]:
    notes = []
    label = f"'{printable(taken.label)}'" if taken.label else "the top level"
    # A tensor or two beside the weights, such as a loss, do not count.
    others = [e for e in others if e.is_model or (e.label and not taken.is_model)]
    if others:
        notes.append(
            f"The weights are those of {label}. The file also has {_labels(others)}: "
            "to take others, name them with --entry, or with entry= in Python."
        )
    elif taken.is_average:
        notes.append(
            f"The weights are those of {label}, which seem to be an average over the "
            "steps; there are no others."
        )
    if left := [*taken.counts, *taken.others]:
        notes.append(f"Left aside, as no weights: {list_names(sorted(left))}.")
    return notes


def split(label: str, values: Mapping[str, Any], num_unnamed: int = 0) -> list[Entry]:
    """Returns the sets of weights in a state dict, by names without prefixes.

    Args:
        label: Where the file keeps it.
        values: Arrays, or placeholders for them, by PyTorch name.
        num_unnamed: As in `Entry`.

    Raises:
        TorchFileError: If there are more than any model has.
    """
    if len(values) > MAX_ARRAYS:
        raise TorchFileError(
            f"it holds {len(values):,} arrays by name, where at most {MAX_ARRAYS:,} "
            "are read"
        )
    values = _without_inner_wrappers(values)
    prefixes = _find_prefixes(values)
    if not prefixes:
        values = _without_wrappers(values)
        return [Entry(label, values, num_unnamed=num_unnamed)]
    groups: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    left = []
    for name, value in values.items():
        prefix = next((p for p in _prefixes_of(name) if p in prefixes), None)
        if prefix is None:
            left.append(name)
        else:
            groups[prefix][name.removeprefix(prefix)] = value
    counts = [name for name in left if name in _COUNTS]
    others = [name for name in left if name not in _COUNTS]
    entries = []
    for prefix, group in groups.items():
        # The prefix distinguishes it from others, or from what is beside it.
        part = prefix.rstrip(".") if len(groups) > 1 or others else ""
        own_label = ".".join(filter(None, (label, part)))
        group, average = _without_averages(group)
        rest = (True, counts, others, num_unnamed)
        entries.append(Entry(own_label, group, *rest))
        if average:
            entries.append(Entry(f"{own_label}.ema".lstrip("."), average, *rest))
    return entries


def _prefixes_of(name: str) -> list[str]:
    """Returns the parts that a name begins with, the longest first, and ""."""
    parts = name.split(".", _MAX_DEPTH)[:-1]
    ends = range(len(parts), 0, -1)
    return [".".join(parts[:end]) + "." for end in ends] + [""]


def _find_prefixes(values: Mapping[str, Any]) -> set[str]:
    """Returns the prefix of each LITv2 in a state dict."""
    prefixes = set()
    for name in values:
        prefix = name.removesuffix(FIRST_LAYER)
        if prefix == name or prefix not in _prefixes_of(name):
            continue
        # A dense model calls its backbone so; a wrapper may call a classifier so.
        is_backbone = prefix.endswith(f".{BACKBONE}") or prefix == BACKBONE
        if is_backbone and f"{prefix}{CLASSIFIER_HEAD}.weight" not in values:
            prefix = prefix.removesuffix(BACKBONE)
        prefixes.add(prefix)
    return prefixes


def _without_inner_wrappers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    def clean(name: str) -> str:
        parts = name.split(".")
        return ".".join(part for part in parts if part not in _INNER_WRAPPERS)

    cleaned = {clean(name): value for name, value in values.items()}
    # Names that only their wrappers tell apart stay as they are.
    return cleaned if len(cleaned) == len(values) else values


def _without_wrappers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_MAX_DEPTH):
        for wrapper in _WRAPPERS:
            if values and all(n.startswith(wrapper) and n != wrapper for n in values):
                values = {n.removeprefix(wrapper): x for n, x in values.items()}
    return values


def _without_averages(
    values: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separates the weights from the averages that mmcv keeps among them.

    It calls the average of `head.weight` `ema_head_weight`, and has none of buffers.
    """
    names = {name: f"ema_{name.replace('.', '_')}" for name in values}
    averages = {name: values[ema] for name, ema in names.items() if ema in values}
    if not averages:
        return values, {}
    taken = {names[name] for name in averages}
    own = {name: value for name, value in values.items() if name not in taken}
    return own, {**own, **averages}
