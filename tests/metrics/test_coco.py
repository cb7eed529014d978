"""COCO's numbers, equal to those stored, by every package that can compute them."""

import json

import numpy as np
import pytest

from litv2_jax.metrics.coco import KINDS, NAMES, find_library, score_detections
from litv2_jax.metrics.detection import DetectionScores
from litv2_jax.settings import ConfigError
from tests.reference import GOLDEN, read_json

TRUTH = read_json("dense/coco_gt.json")
EXPECTED = read_json("dense/coco_metrics.json")
CURVES = np.load(GOLDEN / "dense" / "coco_eval.npz")
CATEGORIES = [each["id"] for each in TRUTH["categories"]]


def read_detections(kind):
    return read_json(f"dense/coco_dets_{KINDS[kind]}.json")


@pytest.fixture(params=["pycocotools", "faster_coco_eval"])
def library(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_all_numbers_are_those_of_pycocotools(kind, library, capsys):
    result = score_detections(TRUTH, read_detections(kind), kind, library=library)
    assert list(result.numbers) == EXPECTED["order"] == list(NAMES)
    expected = EXPECTED[KINDS[kind]]
    np.testing.assert_allclose(list(result.numbers.values()), expected, atol=1e-12)
    # The curves are stored in float32.
    stored = CURVES[f"{KINDS[kind]}/precision_TRKAM_area_all_maxdet100"]
    np.testing.assert_allclose(result.precision[:, :, :, 0, -1], stored, atol=1e-7)
    stored = CURVES[f"{KINDS[kind]}/recall_TKAM"]
    np.testing.assert_allclose(result.recall, stored, atol=1e-7)
    classes = EXPECTED[f"{KINDS[kind]}_per_class_AP"]
    assert [int(k) for k in classes] == CATEGORIES
    np.testing.assert_allclose(result.class_precision(), list(classes.values()))
    assert capsys.readouterr().out == ""


def test_the_faster_package_is_taken_where_it_is_installed():
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        assert find_library() == "pycocotools"
    else:
        assert find_library() == "faster_coco_eval"


def outputs(image_ids, detections):
    """Detections as a detector returns them, in one batch with an empty row."""
    rows = [[d for d in detections if d["image_id"] == i] for i in image_ids]
    numbers = {each["id"]: i for i, each in enumerate(TRUTH["images"])}
    size = max(map(len, rows))
    batch = {
        "boxes": np.zeros((len(rows) + 1, size, 4), np.float32),
        "scores": np.zeros((len(rows) + 1, size), np.float32),
        "labels": np.zeros((len(rows) + 1, size), np.int32),
        "count": np.array([*map(len, rows), size], np.int32),
        "record": np.array([*(numbers[i] for i in image_ids), -1], np.int32),
        "valid": np.array([True] * len(rows) + [False]),
    }
    for i, row in enumerate(rows):
        for j, found in enumerate(row):
            x, y, width, height = found["bbox"]
            batch["boxes"][i, j] = x, y, x + width, y + height
            batch["scores"][i, j] = found["score"]
            batch["labels"][i, j] = CATEGORIES.index(found["category_id"])
    return batch


def test_batches_add_up_to_the_stored_numbers(tmp_path):
    metric = DetectionScores(TRUTH, has_masks=False)
    found = read_detections("box")
    for image_ids in ([114, 100], [128, 107, 121]):
        metric.add(outputs(image_ids, found))
    result = metric.result()
    assert result["num_images"] == 5
    # Corners are float32 here: where they are subtracted, digits are lost.
    numbers = [result[f"box_{name}"] for name in NAMES]
    np.testing.assert_allclose(numbers, EXPECTED["bbox"], atol=1e-6)
    assert f"| c1 | {100 * EXPECTED['bbox_per_class_AP']['1']:.2f} | " in metric.table()

    (path,) = metric.write(tmp_path)
    written = json.loads(path.read_text())
    assert path.name == "detections.json"
    assert len(written) == len(found)
    assert {each["category_id"] for each in written} <= set(CATEGORIES)
    scored = score_detections(TRUTH, written, "box").numbers
    np.testing.assert_allclose(list(scored.values()), numbers, atol=1e-12)


def test_masks_are_pasted_into_their_boxes(tmp_path):
    """The middle of a box is the object; its left half is in the image."""
    image = {"id": 5, "width": 40, "height": 30}
    truth = {"images": [image], "categories": TRUTH["categories"][:2]}
    mask = np.zeros((30, 40), bool)
    mask[10:20, 0:5] = True
    counts = [10, 10] + [20, 10] * 4 + [30 * 35 + 10]
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0}
    annotation |= {"bbox": [0, 10, 5, 10], "area": 50}
    annotation["segmentation"] = {"size": [30, 40], "counts": counts}
    metric = DetectionScores({**truth, "annotations": [annotation]}, has_masks=True)
    metric.add(
        {
            "boxes": np.array([[[-5.0, 10, 5, 20]]], np.float32),
            "scores": np.array([[0.9]], np.float32),
            "labels": np.array([[1]]),
            "masks": np.ones((1, 1, 28, 28), np.float32),
            "count": np.array([1]),
            "record": np.array([0]),
            "valid": np.array([True]),
        }
    )
    result = metric.result()
    assert result["mask_AP"] == pytest.approx(1)
    # Half of the box is outside.
    assert (result["box_AP50"], result["box_AP75"]) == (pytest.approx(1), 0)
    # There is none of another size.
    assert result["mask_APl"] == -1
    boxes, masks = metric.write(tmp_path)
    assert set(json.loads(masks.read_text())[0]) == {
        *("image_id", "category_id", "score", "segmentation")
    }
    assert "segmentation" not in json.loads(boxes.read_text())[0]
    assert "| c1 |  |  |  |  |" in metric.table()
    assert "No object of the evaluation split is of the class c1" in metric.table()


def test_finding_nothing_scores_zero(library):
    numbers = score_detections(TRUTH, [], "box", library=library).numbers
    assert (numbers["AP"], numbers["AR100"]) == (0, 0)


def test_images_without_annotations_have_no_scores_but_detections(tmp_path):
    metric = DetectionScores({**TRUTH, "annotations": []}, has_masks=False)
    with pytest.raises(ConfigError, match="no scores of no images"):
        metric.result()
    metric.add(outputs([100], read_detections("box")))
    assert metric.result()["box_AP"] == -1
    assert len(json.loads(metric.write(tmp_path)[0].read_text())) == 10
