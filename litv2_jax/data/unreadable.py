"""Records that cannot be decoded: skipped, logged once each, limited in number."""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from absl import logging

from litv2_jax.settings import ConfigError

# More than this many in a row are not bad images, but a missing disk or file.
MAX_IN_A_ROW = 100

# Beside the arrays of a record, until `UnreadableRecords.watch` removes it: the index
# that was requested, and how many unreadable records follow from there on.
_SKIPPED = "_skipped"


class UnreadableImageError(ValueError):
    """A record whose image cannot be decoded; its message says why."""


def read_readable(
    source: grain.sources.RandomAccessDataSource,
    index: int,
    transform: Callable[[Any], Any],
) -> tuple[dict[str, Any], bool]:
    """Transforms a record, or the next readable one instead.

    Args:
        source: Records by index; the first follows the last.
        index: The record.
        transform: From a record to arrays.

    Returns:
        The arrays, to be passed through `UnreadableRecords.watch`, and whether they are
        those of the record itself.

    Raises:
        ConfigError: If too many in a row are unreadable.
    """
    limit = min(MAX_IN_A_ROW, len(source))
    reason = ""
    for skipped in range(limit):
        try:
            arrays = transform(source[(index + skipped) % len(source)])
        except (UnreadableImageError, MemoryError) as error:
            reason = explain(error)
            continue
        return {**arrays, _SKIPPED: np.array([index, skipped])}, not skipped
    raise ConfigError(
        f"{limit} records in a row are unreadable, from {_describe(source, index)} on "
        f"({reason}); `python -m litv2_jax.prepare check` lists what is broken. If "
        "all are, see that config.data.data_dir is complete and can be read."
    )


def explain(error: UnreadableImageError | MemoryError) -> str:
    """Returns why a record is unreadable; MemoryError has no message."""
    return str(error) or "there is too little memory for it"


class UnreadableRecords:
    """Names each unreadable record once, and stops a run that meets too many."""

    def __init__(self, max_unreadable: int, *, is_shared: bool = False):
        """Creates an empty list, to be kept during the whole run.

        Args:
            max_unreadable: How many different records may be unreadable; each process
                counts those of its own shard of the batches.
            is_shared: Whether other processes load shards of the same batches. Then too
                many are an error only in `check`, which all of them call at the same
                step: if one raised alone, the others would wait for it.
        """
        self._max_unreadable = max_unreadable
        self._is_shared = is_shared
        self._names: set[str] = set()
        self._latest = ""

    def __len__(self) -> int:
        """Returns how many different records were unreadable so far."""
        return len(self._names)

    def watch(
        self,
        batches: grain.IterDataset,
        source: grain.sources.RandomAccessDataSource,
        transform: Callable[[Any], Any],
    ) -> grain.IterDataset:
        """Returns the batches of what `read_readable` returned, for the model.

        Where other processes load shards of them, `num_unreadable` int32 [B] is added:
        how many different records were unreadable so far, the same in each row.

        Args:
            batches: Loaded by this process or others.
            source: As for `read_readable`.
            transform: As for `read_readable`; called again to find out why a record is
                unreadable.
        """

        def check(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            batch = dict(batch)
            rows = batch.pop(_SKIPPED)
            for index, skipped in rows.tolist():
                for i in range(index, index + skipped):
                    self._add(source, i % len(source), transform)
            if self._is_shared:
                batch["num_unreadable"] = np.full(len(rows), len(self), np.int32)
            return batch

        return batches.map(check)

    def _add(
        self,
        source: grain.sources.RandomAccessDataSource,
        index: int,
        transform: Callable[[Any], Any],
    ) -> None:
        name = _describe(source, index)
        if name in self._names:
            return
        self._names.add(name)
        reason = "it could be read at the second attempt"
        try:
            transform(source[index])
        except (UnreadableImageError, MemoryError) as error:
            reason = explain(error)
        logging.warning("Left out as unreadable: %s: %s", name, reason)
        self._latest = f"the last is {name}: {reason}"
        if not self._is_shared:
            self.check(len(self))

    def check(self, count: int) -> None:
        """Raises ConfigError if there are too many.

        Args:
            count: The largest count of any process.
        """
        if count > self._max_unreadable:
            latest = self._latest or "the output of another process names them"
            raise ConfigError(
                f"{count} records are unreadable, but config.data.max_unreadable is "
                f"{self._max_unreadable}; {latest}. Repair the data (`python -m "
                "litv2_jax.prepare check` lists what is broken), or go on with "
                f"--config.data.max_unreadable={10 * count}."
            )


def _describe(source: grain.sources.RandomAccessDataSource, index: int) -> str:
    """Returns a human-readable name of a record."""
    where = getattr(source, "where", None)
    return where(index) if where else f"record {index}"
