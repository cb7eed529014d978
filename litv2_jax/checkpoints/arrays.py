"""Reads the arrays of a checkpoint, by name, and checks them against its manifest.

Orbax writes them as zarr arrays in an OCDBT database, one for each part. They are read
by TensorStore itself, because Orbax prints tracebacks for damaged files. The name of
an array is its path in the tree that was saved, such as `model/params/head/kernel`.
"""

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from litv2_jax.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    find_difference,
    read_manifest,
)
from litv2_jax.settings import ConfigError

Shape = tuple[int, ...]

# In the database, each array is a folder with this file.
_ARRAY_FILE = "/zarr.json"


@dataclasses.dataclass(frozen=True)
class StoredArrays:
    """Arrays of a checkpoint, opened but not yet read.

    Attributes:
        path: Folder of the checkpoint.
        manifest: What it says about itself.
        arrays: By name.
    """

    path: Path
    manifest: Manifest
    arrays: dict[str, ts.TensorStore]

    @classmethod
    def open(cls, path: Path, parts: Sequence[str]) -> "StoredArrays":
        """Opens the arrays in parts of a checkpoint; a part that it lacks has none.

        Args:
            path: Folder of the checkpoint.
            parts: `model` or `optimizer` or both.

        Raises:
            ConfigError: If the checkpoint is damaged or of an unknown format.
        """
        manifest = read_manifest(path)
        found: dict[str, ts.TensorStore] = {}
        for part in parts:
            if (path / part).exists():
                with _explain_damage(path, f"{part}/"):
                    found |= _open_part(path, part)
        opened = cls(path, manifest, found)
        if manifest.arrays is not None:
            shapes = opened.shapes().items()
            saved = {
                (name, stored.shape)
                for name, stored in manifest.arrays.items()
                if name.split("/")[0] in parts
            }
            wrong = sorted(saved ^ set(shapes))
            if wrong:
                raise DamagedCheckpointError(
                    path, f"the array {wrong[0][0]} is missing or has another shape"
                )
        return opened

    def shapes(self) -> dict[str, Shape]:
        """Returns the shape of each array."""
        return {name: tuple(array.shape) for name, array in self.arrays.items()}

    def read(self) -> dict[str, np.ndarray]:
        """Returns the arrays as they were saved.

        Raises:
            ConfigError: If one is damaged.
        """
        with _explain_damage(self.path, "its arrays"):
            reads = {name: array.read() for name, array in self.arrays.items()}
            arrays = {name: read.result() for name, read in reads.items()}
        if self.manifest.arrays is not None:
            difference = find_difference(self.manifest.arrays, arrays)
            if difference:
                raise DamagedCheckpointError(self.path, difference)
        return arrays

    def check_fit(
        self,
        ours: Mapping[str, Shape],
        part: str = "",
        skipped: Collection[str] = (),
    ) -> None:
        """Raises ConfigError, naming the differences, if a model has other arrays.

        Args:
            ours: Shapes of the model's arrays.
            part: Third part of the names of the arrays to compare, such as `backbone`;
                all arrays by default.
            skipped: Names of arrays that need not fit.
        """
        stored = {
            name: shape
            for name, shape in self.shapes().items()
            if name.split("/")[2:3] == [part] or not part
        }
        problems = [
            f"{name}: {stored.get(name, 'absent')} in the checkpoint, "
            f"{ours.get(name, 'absent')} in the model"
            for name in sorted(stored.keys() | ours.keys())
            if stored.get(name) != ours.get(name) and name not in skipped
        ]
        if problems:
            shown = problems[:10] + ["..."] * (len(problems) > 10)
            model = self.manifest.description.get("model", "an unknown model")
            raise ConfigError(
                f"The checkpoint {self.path} does not fit the model ({len(problems)} "
                "arrays):\n  " + "\n  ".join(shown) + f"\nIt was made for {model}."
            )


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def shapes_by_name(tree: Any) -> dict[str, Shape]:
    """Returns the shapes of a tree's arrays by their paths."""
    return {name: tuple(leaf.shape) for name, leaf in by_name(tree).items()}


def arrange(arrays: Mapping[str, Any], like: Any) -> Any:
    """Returns arrays by name in the structure and with the types of another tree.

    A leaf of that tree may be among the arrays, and stays as it is.
    """
    leaves = [
        array
        if (array := arrays[name]) is leaf
        else array.astype(leaf.dtype, copy=False)
        for name, leaf in by_name(like).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _open_part(path: Path, part: str) -> dict[str, ts.TensorStore]:
    files = {"driver": "file", "path": f"{path / part}/"}
    database = {"driver": "ocdbt", "base": files}
    keys = [key.decode() for key in ts.KvStore.open(database).result().list().result()]
    names = [key.removesuffix(_ARRAY_FILE) for key in keys if key.endswith(_ARRAY_FILE)]
    opening = {
        f"{part}/{name.replace('.', '/')}": ts.open(
            {
                "driver": "zarr3",
                "kvstore": {**database, "path": f"{name}/"},
                # What is missing must not read as zeros.
                "fill_missing_data_reads": False,
            },
            open=True,
            read=True,
        )
        for name in names
    }
    return {name: array.result() for name, array in opening.items()}


@contextlib.contextmanager
def _explain_damage(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    # TensorStore raises ValueError for nearly everything, with a long text.
    except (ValueError, RuntimeError, TypeError, LookupError) as error:
        reason = re.split(r" \[\w+=", str(error))[0][:300] or type(error).__name__
        raise DamagedCheckpointError(
            path, f"{what} cannot be read ({reason})"
        ) from error
