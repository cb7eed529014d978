import numpy as np
import pytest

from litv2_jax.data.transforms.geometry import reduce_zero_label
from litv2_jax.metrics.segmentation import SegmentationScores
from litv2_jax.settings import ConfigError
from tests.reference import GOLDEN

STORED = np.load(GOLDEN / "dense" / "miou.npz")


def confusion(label, prediction, num_classes):
    counts = np.zeros((num_classes, num_classes), int)
    is_labelled = label < num_classes
    np.add.at(counts, (label[is_labelled], prediction[is_labelled]), 1)
    return {"confusion": counts, "valid": np.array([True])}


@pytest.mark.parametrize("case", ["plain", "absent", "reduce_zero"])
def test_scores_match_mmsegmentation(case):
    """Absent classes, ignored pixels, and labels of which zero is none."""
    num_classes, _, is_reduced = STORED[f"{case}/num_classes_ignore_reduce"]
    metric = SegmentationScores([f"class {k}" for k in range(num_classes)])
    count = sum(key.startswith(f"{case}/gt.") for key in STORED)
    for i in range(count):
        label = STORED[f"{case}/gt.{i}"]
        label = reduce_zero_label(label) if is_reduced else label
        metric.add(confusion(label, STORED[f"{case}/pred.{i}"], num_classes))

    result = metric.result()
    iou, accuracy = metric.per_class()
    np.testing.assert_array_equal(iou, STORED[f"{case}/IoU"])
    np.testing.assert_array_equal(accuracy, STORED[f"{case}/Acc"])
    summary = [result["aAcc"], result["mIoU"], result["mAcc"]]
    np.testing.assert_allclose(
        summary, STORED[f"{case}/summary_unrounded"], rtol=0, atol=1e-15
    )
    assert result["num_images"] == count


def test_the_table_has_a_row_for_each_class():
    metric = SegmentationScores(["sky", "sea", "boat"])
    label, prediction = np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0])
    metric.add(confusion(label, prediction, 3))
    rows = metric.table().splitlines()
    assert rows[2:] == [
        "| sky | 50.00 | 50.00 |",
        "| sea | 50.00 | 100.00 |",
        "| boat |  |  |",
        "",
        "No pixel of the evaluation split is of the class boat (pixels of 255 are "
        "ignored): the scores say nothing about it.",
    ]


def test_classes_that_no_pixel_has_are_named(caplog):
    metric = SegmentationScores(["sky", "a|b", "$x$\x1b[2J"])
    metric.add(confusion(np.array([0, 0, 255]), np.array([0, 1, 1]), 3))
    metric.result()
    expected = (
        "No pixel of the evaluation split is of the classes a|b, $x$\\x1b[2J (pix"
    )
    assert expected in metric.table()
    assert expected in caplog.text
    assert "| a\\|b | 0.00 |  |" in metric.table()
    metric.add(confusion(np.array([1, 2]), np.array([1, 1]), 3))
    caplog.clear()
    metric.result()
    assert "No pixel" not in metric.table() + caplog.text


def test_no_labelled_pixel_has_no_score():
    metric = SegmentationScores(["sky", "sea"])
    metric.add({"confusion": np.zeros((2, 2), int), "valid": np.array([True])})
    message = "no accuracy of no labelled pixels.*1 images.*config.data.zero_label"
    with pytest.raises(ConfigError, match=message):
        metric.result()
