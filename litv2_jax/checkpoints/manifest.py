"""The manifest of a checkpoint: its format, step, results, model and digests.

Orbax checks its own indexes, but not the bytes of the arrays; a flipped bit would be
trained on. The manifest is the custom metadata that Orbax commits with a checkpoint. It
has a SHA-256 of each array and one of itself, so that any damage is noticed.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from litv2_jax.settings import ConfigError

# 1 had neither digests nor the step and the results, which Orbax kept beside it.
FORMAT = 2

_FILE = "_CHECKPOINT_METADATA"
# Written into a checkpoint whose evaluation came after it.
_LATER_RESULTS = "results.json"
# Fields of the manifest beside the description.
_OWN_FIELDS = ("format", "step", "results", "arrays", "digest")


class DamagedCheckpointError(ConfigError):
    """A checkpoint that differs from what was saved.

    Attributes:
        path: The checkpoint.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str):
        """Builds the message from both."""
        super().__init__(f"The checkpoint {path} is damaged: {reason}.")
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array as it was saved.

    Attributes:
        dtype: Name of its type.
        shape: Its shape.
        sha256: Digest of its bytes in C order, in hexadecimal.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest of a checkpoint.

    Attributes:
        description: Of the model and of the run, as it was saved.
        step: Steps made; None in converted weights.
        results: Of the evaluation at this step; empty if there was none.
        arrays: What was saved, by name; None if the checkpoint is of format 1.
    """

    description: dict[str, Any]
    step: int | None
    results: dict[str, float]
    arrays: dict[str, Stored] | None


def create_manifest(
    description: Mapping[str, Any],
    arrays: Mapping[str, jax.Array],
    *,
    step: int | None = None,
    results: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a checkpoint to be saved, in JSON.

    Args:
        description: Of the model and of the run.
        arrays: What is saved, by name; replicated on every device.
        step: Steps made, in a run.
        results: Of the evaluation at this step, if there was one.
    """
    manifest = {
        **description,
        "format": FORMAT,
        "step": step,
        "results": dict(results or {}),
        "arrays": {
            name: dataclasses.astuple(stored)
            for name, stored in compute_digests(arrays).items()
        },
    }
    # As JSON returns it: with lists for tuples, and text for keys.
    manifest = json.loads(json.dumps(manifest))
    return {**manifest, "digest": _digest_of(manifest)}


def compute_digests(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, Stored]:
    """Returns the digest of each array; those in JAX are replicated."""

    def digest(array: jax.Array | np.ndarray) -> Stored:
        local = array.addressable_data(0) if isinstance(array, jax.Array) else array
        local = np.ascontiguousarray(local)
        sha256 = hashlib.sha256(local.view(np.uint8).data).hexdigest()
        return Stored(local.dtype.name, array.shape, sha256)

    # Hashing releases the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return dict(zip(arrays, executor.map(digest, arrays.values()), strict=True))


def find_difference(
    stored: Mapping[str, Stored], arrays: Mapping[str, np.ndarray]
) -> str:
    """Returns how the arrays that were read differ from those saved, or ""."""
    digests = compute_digests(arrays)
    wrong = sorted(name for name, found in digests.items() if stored[name] != found)
    if not wrong:
        return ""
    more = f" and {len(wrong) - 1} others" if wrong[1:] else ""
    return f"the array {wrong[0]}{more} differs from what was saved (SHA-256)"


def has_manifest(path: Path) -> bool:
    """Returns whether a folder is a checkpoint."""
    return (path / _FILE).is_file()


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest of a checkpoint.

    Args:
        path: Folder of the checkpoint.

    Raises:
        ConfigError: If it is damaged, or of a format that is not known.
    """
    manifest = _parse_manifest(path)
    is_of_run = path.parent.name == "checkpoints" and path.name.isdecimal()
    if is_of_run and manifest.step not in (None, int(path.name)):
        raise DamagedCheckpointError(path, f"it is that of step {manifest.step}")
    return manifest


def _parse_manifest(path: Path) -> Manifest:
    try:
        stored = json.loads((path / _FILE).read_bytes())["custom_metadata"]
        number = stored["format"]
    except FileNotFoundError:
        raise DamagedCheckpointError(path, f"it has no {_FILE}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(
            path, f"its {_FILE} cannot be read ({type(error).__name__}: {error})"
        ) from None
    if type(number) is int and number > FORMAT:
        raise ConfigError(
            f"The checkpoint {path} has format {number}, but this version of litv2_jax "
            f"reads formats up to {FORMAT}: install the version that wrote it."
        )
    own = stored.keys() & set(_OWN_FIELDS)
    if number == 1 and own == {"format"}:
        return _read_first_format(path, stored)
    if number != FORMAT or own != set(_OWN_FIELDS):
        raise DamagedCheckpointError(path, f"its {_FILE} lacks what belongs there")
    digest = stored.pop("digest")
    if digest != _digest_of(stored):
        raise DamagedCheckpointError(path, f"its {_FILE} differs from what was saved")
    return Manifest(
        {name: x for name, x in stored.items() if name not in _OWN_FIELDS},
        stored["step"],
        stored["results"] or _read_later_results(path),
        {
            name: Stored(dtype, tuple(shape), sha256)
            for name, (dtype, shape, sha256) in stored["arrays"].items()
        },
    )


def add_results(path: Path, results: Mapping[str, float]) -> None:
    """Adds the results of an evaluation to a checkpoint that was saved without."""
    temporary = path / f"{_LATER_RESULTS}.tmp"
    content = {"results": dict(results)}
    temporary.write_text(json.dumps({**content, "digest": _digest_of(content)}))
    os.replace(temporary, path / _LATER_RESULTS)


def find_best(manifests: Iterable[Manifest]) -> int | None:
    """Returns the step of the best result, the latest among equals; None without any.

    Results that are not finite do not count.
    """
    scores = []
    for manifest in manifests:
        score = manifest.results.get(manifest.description.get("best", ""), math.nan)
        if manifest.step is not None and math.isfinite(score):
            scores.append((score, manifest.step))
    return max(scores)[1] if scores else None


def _read_first_format(path: Path, stored: dict[str, Any]) -> Manifest:
    results: Any = {}
    try:
        results = json.loads((path / "metrics" / "metrics").read_bytes())
        results = {str(name): float(value) for name, value in results.items()}
    except FileNotFoundError:
        pass  # It was not evaluated.
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(
            path, f"its results cannot be read ({error})"
        ) from None
    step = int(path.name) if path.name.isdecimal() else None
    description = {name: x for name, x in stored.items() if name != "format"}
    return Manifest(description, step, results, None)


def _read_later_results(path: Path) -> dict[str, float]:
    """Returns results that were added, or none if damaged: evaluating restores them."""
    try:
        content = json.loads((path / _LATER_RESULTS).read_bytes())
        digest = content.pop("digest")
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}
    return content["results"] if digest == _digest_of(content) else {}


def _digest_of(content: Any) -> str:
    """Returns the digest of a value, written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
