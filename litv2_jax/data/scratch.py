"""Lets a dry run open data sets and leave no files behind."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from litv2_jax.data.sources.tfds import find_unprepared
from litv2_jax.data.sources.tfrecord import without_keeping_index


@contextlib.contextmanager
def without_writing(
    values: Mapping[str, Any],
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Lets the block open data sets without leaving files behind.

    A data set that opening would prepare is prepared in a temporary folder.

    Args:
        values: The task's sections of a recipe.

    Yields:
        The same, with that folder as `data.data_dir` if it was needed, and the folder
        that a run would prepare or "".
    """
    data = values.get("data", {})
    name, data_dir = "", ""
    if isinstance(data, Mapping):
        name, data_dir = str(data.get("name")), str(data.get("data_dir"))
    with without_keeping_index(), tempfile.TemporaryDirectory() as temporary:
        folder = find_unprepared(name, data_dir)
        if folder is None:
            yield values, ""
        else:
            changed = {**values, "data": {**data, "data_dir": temporary}}
            yield changed, f"{name} would be prepared in {folder}"
