"""The original's published weights: their names, models and scores.

Names stand where weights are given by a string: `published:NAME`, or `published` for
those of the model that is created or trained. A local file or folder of such a name is
`./published`, or a `Path`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated

from litv2_jax.models.family import find_family
from litv2_jax.settings import ConfigError, check_text, parse_path

# What the scores are called, by their names in our results.
TITLES = {"top1": "top-1", "mIoU": "mIoU", "box_AP": "box AP", "mask_AP": "mask AP"}

_WORD = "published"
_PREFIX = f"{_WORD}:"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file of the original's releases.

    Attributes:
        release: Tag of the release.
        file: Name of the file.
        model: Name for `create_model`, which has the published sizes and windows.
        scores: Published scores in percent, by their names in our results; empty if the
            original shows them in a figure alone.
    """

    release: str
    file: str
    model: str
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        """The name behind `published:`."""
        return Path(self.file).stem

    @property
    def task(self) -> str:
        """What the model is for, such as `segmentation`."""
        return find_family(self.model).task


def _list_files() -> list[PublishedFile]:
    files = [
        PublishedFile("v1.0", f"{name}.pth", name, {"top1": top1})
        for name, top1 in (
            ("litv2_s", 82.0),
            ("litv2_m", 83.3),
            ("litv2_b", 83.6),
            ("litv2_b_384", 84.7),
        )
    ]
    # The names of the files have no trailing zero.
    files += [
        PublishedFile("v1.1", f"alpha_{alpha:g}.pth", f"litv2_s_alpha{alpha}", {})
        for alpha in (0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0)
    ]
    files += [
        PublishedFile(
            "v1.0",
            f"litv2_{size}_fpn_r50_512x512_80k_ade20k.pth",
            f"semantic_fpn_litv2_{size}",
            {"mIoU": mean_iou},
        )
        for size, mean_iou in (("s", 44.3), ("m", 45.7), ("b", 47.2))
    ]
    for kind, window, scores in _DETECTORS:
        ending, suffix = ("_ws_4", "_window4") if window == 4 else ("", "")
        files += [
            PublishedFile(
                "v1.0",
                f"{kind}_litv2_{size}_fpn_1x_coco{ending}.pth",
                f"{kind}_litv2_{size}{suffix}",
                dict(zip(("box_AP", "mask_AP"), values, strict=False)),
            )
            for size, values in zip("smb", scores, strict=True)
        ]
    return files


# Kind, window and, of S, M and B, box AP and mask AP.
_DETECTORS = (
    ("retinanet", 2, ((44.0,), (46.0,), (46.7,))),
    ("retinanet", 4, ((43.7,), (45.8,), (46.3,))),
    ("mask_rcnn", 2, ((44.9, 40.8), (46.8, 42.3), (47.3, 42.6))),
    ("mask_rcnn", 4, ((44.7, 40.7), (46.5, 42.0), (46.8, 42.3))),
)

# By name.
PUBLISHED = {file.name: file for file in _list_files()}


def is_published(weights: str | PathLike) -> bool:
    """Returns whether weights are named as published ones; a `Path` never is."""
    return isinstance(weights, str) and (
        weights == _WORD or weights.startswith(_PREFIX)
    )


def find_published(weights: str, model: str | None = None) -> PublishedFile:
    """Returns the file that published weights are in.

    Args:
        weights: `published:NAME`, NAME being that of the file without its ending or
            that of its model; or `published`.
        model: Name of the model whose weights `published` means.

    Raises:
        ConfigError: If there are no such weights, or `published` is of no model.
    """
    if weights == _WORD and not model:
        raise ConfigError(
            f"{_WORD!r} does not say of which model here: write {_PREFIX}NAME, such as "
            f"{_PREFIX}litv2_s. {_LIST}"
        )
    name = model or "" if weights == _WORD else weights.removeprefix(_PREFIX)
    for file in PUBLISHED.values():
        if name in (file.name, file.model):
            return file
    names = [*PUBLISHED, *(file.model for file in PUBLISHED.values())]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {_PREFIX}{close[0]}? " if close else ""
    raise ConfigError(f"There are no published weights of {name!r}. {hint}{_LIST}")


_LIST = "`python -m litv2_jax.weights list` prints all names."


def parse_weights(value: str, name: str) -> str:
    """Returns what names weights, with an absolute path unless they are published.

    Args:
        value: As the user gave it.
        name: Of the setting, for errors.

    Raises:
        ConfigError: If it cannot be a path.
    """
    if is_published(value):
        return check_text(value, name)
    return str(parse_path(value, name))


class _WeightsOrEmpty:
    """What names weights, or nothing."""

    def apply(self, value: str, name: str) -> str:
        """Returns the name or the absolute path, or raises ConfigError."""
        return parse_weights(value, name) if value else ""


WeightsText = Annotated[str, _WeightsOrEmpty()]
