"""COCO's average precision and recall, by pycocotools.

faster-coco-eval, which gives the same numbers in a fifth of the time, is used where it
is installed.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from litv2_jax.settings import ConfigError

# In the order in which pycocotools returns them.
NAMES = tuple(
    "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()  # noqa: SIM905
)

# What is compared, by pycocotools' names: boxes or masks.
KINDS = {"box": "bbox", "mask": "segm"}

# Packages that score, by the class that does it; the first that is installed is used.
_LIBRARIES = {
    "faster_coco_eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
}


@dataclasses.dataclass(frozen=True)
class CocoResult:
    """Scores of all detections; -1 stands for what nothing in the truth can tell.

    Attributes:
        numbers: COCO's twelve, by `NAMES`.
        precision: [T, R, K, A, M] by threshold of overlap, recall, class, range of
            areas and number of detections.
        recall: [T, K, A, M].
    """

    numbers: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray

    def class_precision(self, threshold: int | None = None) -> np.ndarray:
        """Returns the average precision of each class [K]; NaN where there is none.

        Args:
            threshold: Number of the overlap, 0 being 0.5; None takes the mean of all.
        """
        chosen = slice(None) if threshold is None else slice(threshold, threshold + 1)
        values = self.precision[chosen, :, :, 0, -1]
        has_truth = values > -1
        total = np.where(has_truth, values, 0).sum((0, 1))
        with np.errstate(invalid="ignore"):
            return total / has_truth.sum((0, 1))


def score_detections(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: str,
    *,
    image_ids: Sequence[int] | None = None,
    library: str = "",
) -> CocoResult:
    """Compares detections with the truth.

    Args:
        truth: COCO's `images`, `annotations` and `categories`.
        detections: In COCO's result format; with `bbox` for boxes, with `segmentation`
            and without `bbox` for masks, so that sizes are those of the masks.
        kind: `box` or `mask`.
        image_ids: Of the images to look at; all of them by default.
        library: `faster_coco_eval` or `pycocotools`; whichever is installed by default.

    Raises:
        ConfigError: If pycocotools is not installed.
    """
    create_index, evaluate = _import(library)
    # These report on standard output what they do.
    with contextlib.redirect_stdout(io.StringIO()):
        expected, found = create_index(), create_index()
        # They write into the annotations.
        annotations = [dict(each) for each in truth["annotations"]]
        expected.dataset = {**truth, "annotations": annotations}
        expected.createIndex()
        if detections:
            found = expected.loadRes([dict(each) for each in detections])
        else:
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = evaluate(expected, found, KINDS[kind])
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = [float(value) for value in evaluation.stats[: len(NAMES)]]
    return CocoResult(
        dict(zip(NAMES, numbers, strict=True)),
        np.asarray(evaluation.eval["precision"]),
        np.asarray(evaluation.eval["recall"]),
    )


def find_library() -> str:
    """Returns the name of the package that is to score.

    Raises:
        ConfigError: If pycocotools is not there, which masks are encoded by as well.
    """
    if importlib.util.find_spec("pycocotools"):
        return next(name for name in _LIBRARIES if importlib.util.find_spec(name))
    raise ConfigError(
        "Detections are scored by pycocotools, which is not installed: run `pip "
        "install 'litv2_jax[coco]'`."
    )


def _import(library: str) -> tuple[Any, Any]:
    """Returns the classes of an annotated data set and of an evaluation."""
    data, evaluation, name = _LIBRARIES[library or find_library()]
    return (
        importlib.import_module(data).COCO,
        getattr(importlib.import_module(evaluation), name),
    )
