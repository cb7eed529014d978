"""Holds images of a folder out for evaluation, by their names."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from litv2_jax.data.sources.folders import FolderSource
from litv2_jax.settings import ConfigError
from litv2_jax.text import compose


class Subset:
    """Some of the records of a source; can be sent to other processes.

    Attributes:
        class_names: What the labels stand for.
    """

    def __init__(self, source: FolderSource, indices: Sequence[int]):
        self._source = source
        self._indices = np.asarray(indices)
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._indices[index])]

    def where(self, index: int) -> str:
        """Returns a human-readable name of a record, with its file."""
        return self._source.where(int(self._indices[index]))


def hold_out(source: FolderSource, fraction: float) -> tuple[Subset, Subset]:
    """Splits a source in two, to train on and to evaluate.

    A hash of its name decides for each image, so that it stays where it is whatever is
    added or removed. At least one image of each class is trained on, and at least one
    is evaluated.

    Args:
        source: All images.
        fraction: Share of the images to evaluate, approximately.

    Raises:
        ConfigError: If there are not more images than classes.
    """
    names = [source.name(index) for index in range(len(source))]
    labels = np.array([source.label(index) for index in range(len(source))])
    draws = np.array([_draw(name) for name in names])
    is_held = draws < fraction
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # The one that is held out last.
        is_held[rows[draws[rows].argmax()]] = False
    if not is_held.any():
        counts = np.bincount(labels)
        rows = np.flatnonzero(counts[labels] > 1)
        if not len(rows):
            raise ConfigError(
                f"There are {len(names)} images, one of each class, so that none can "
                "be held out to evaluate on: add images, or a folder for "
                "config.data.eval_split."
            )
        is_held[rows[draws[rows].argmin()]] = True
    parts = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    train, evaluation = (Subset(source, part.tolist()) for part in parts)
    return train, evaluation


def _draw(name: str) -> float:
    """Returns a number from 0 to 1 that a name alone decides, on any system."""
    text = compose(name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
