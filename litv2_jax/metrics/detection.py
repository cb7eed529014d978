"""What a detector found, image by image, and its scores as COCO's."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from litv2_jax.metrics.absent import describe_absent, warn_absent
from litv2_jax.metrics.coco import CocoResult, find_library, score_detections
from litv2_jax.metrics.rle import encode_mask
from litv2_jax.ops.masks import resample_mask
from litv2_jax.settings import ConfigError
from litv2_jax.text import literal

_HALF = 0.5  # Least probability of a pixel of a mask.


class DetectionScores:
    """Collects detections, and compares all of them with the truth at the end.

    Numbers are COCO's twelve for boxes and for masks, as shares of 1; -1 where the
    truth has nothing to compare with, such as no small object.
    """

    def __init__(self, truth: Mapping[str, Any], *, has_masks: bool):
        """Creates a metric without detections.

        Args:
            truth: COCO's `images`, `annotations` and `categories`; the images in the
                order of the records.
            has_masks: Whether masks are scored, too.

        Raises:
            ConfigError: If nothing that scores is installed.
        """
        find_library()
        self._truth = truth
        self._kinds = ("box", "mask") if has_masks else ("box",)
        self._executor = ThreadPoolExecutor()
        # Of each image, what it is done by: masks are encoded while the next batch is
        # computed.
        self._images: dict[int, Future[list[dict[str, Any]]]] = {}
        self._scored: dict[str, CocoResult] = {}

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            outputs: `boxes` [B, N, 4], `scores` and `labels` [B, N], `count` [B], how
                many of the N there are, and perhaps `masks` [B, N, S, S]; `record` [B],
                the number of the image; `valid` [B] bool, false for what only fills up
                the batch.
        """
        for i in np.flatnonzero(outputs["valid"]):
            number, count = int(outputs["record"][i]), int(outputs["count"][i])
            rows = {
                name: np.asarray(outputs[name][i][:count])
                for name in ("boxes", "scores", "labels", "masks")
                if name in outputs
            }
            self._images[number] = self._executor.submit(self._describe, number, rows)

    def result(self) -> dict[str, float]:
        """Returns `box_AP`, `mask_AP` and the others, and `num_images`.

        Raises:
            ConfigError: If no image was added.
        """
        if not self._images:
            raise ConfigError(
                "There are no scores of no images: none of the evaluation split could "
                "be read."
            )
        if not self._truth["annotations"]:
            logging.warning("The evaluation split has no objects: scores are -1.")
        else:
            warn_absent(self._absent(), "object")
        images = self._truth["images"]
        found = self._collect()
        self._scored = {
            kind: score_detections(
                self._truth,
                _select(found, kind),
                kind,
                image_ids=[images[number]["id"] for number in sorted(self._images)],
            )
            for kind in self._kinds
        }
        return {
            **{
                f"{kind}_{name}": value
                for kind, scored in self._scored.items()
                for name, value in scored.numbers.items()
            },
            "num_images": len(self._images),
        }

    def table(self) -> str:
        """Returns the scores of each class as a table in Markdown."""
        titles, columns = [], []
        for kind, scored in self._scored.items():
            titles += [f"{kind} AP", f"{kind} AP50"]
            columns += [scored.class_precision(), scored.class_precision(0)]
        rows = [f"| class | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
        for k, category in enumerate(self._truth["categories"]):
            cells = ["" if np.isnan(c[k]) else f"{100 * c[k]:.2f}" for c in columns]
            # The only character that ends a cell.
            name = literal(category["name"]).replace("|", "\\|")
            rows.append(f"| {name} | {' | '.join(cells)} |")
        absent = describe_absent(self._absent(), "object")
        return "\n".join(rows + ["", absent] * bool(absent))

    def write(self, folder: Path) -> list[Path]:
        """Writes what was found in COCO's result format, and returns the files.

        That is `detections.json` and, of a model with masks, `masks.json`: with boxes
        beside the masks, COCO's programs would take the sizes of the boxes.
        """
        found = self._collect()
        names = {"box": "detections.json", "mask": "masks.json"}
        paths = []
        for kind in self._kinds:
            path = folder / names[kind]
            path.write_text(json.dumps(_select(found, kind)))
            paths.append(path)
        return paths

    def _describe(self, number: int, rows: dict[str, np.ndarray]) -> list[dict]:
        """Returns the detections of an image, with boxes and masks."""
        image, categories = self._truth["images"][number], self._truth["categories"]
        size = image["height"], image["width"]
        found = []
        for i, box in enumerate(rows["boxes"]):
            x_min, y_min, x_max, y_max = box.tolist()
            entry: dict[str, Any] = {
                "image_id": image["id"],
                "category_id": categories[int(rows["labels"][i])]["id"],
                "score": float(rows["scores"][i]),
                "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
            }
            if "mask" in self._kinds:
                top, left, values = resample_mask(rows["masks"][i], box, size)
                entry["segmentation"] = encode_mask(values >= _HALF, top, left, size)
            found.append(entry)
        return found

    def _collect(self) -> list[dict[str, Any]]:
        return [
            entry
            for _, future in sorted(self._images.items())
            for entry in future.result()
        ]

    def _absent(self) -> Sequence[str]:
        present = {entry["category_id"] for entry in self._truth["annotations"]}
        categories = self._truth["categories"]
        return [each["name"] for each in categories if each["id"] not in present]


def _select(found: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Returns the detections with boxes alone, or with masks alone."""
    other = {"box": "segmentation", "mask": "bbox"}[kind]
    return [{k: v for k, v in entry.items() if k != other} for entry in found]
