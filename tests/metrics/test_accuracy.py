import numpy as np
import pytest

from litv2_jax.metrics.accuracy import Accuracy
from litv2_jax.settings import ConfigError


def batch(top1, top5, loss, valid):
    return {
        "top1": np.array(top1, bool),
        "top5": np.array(top5, bool),
        "loss": np.array(loss, np.float32),
        "valid": np.array(valid, bool),
    }


def test_images_that_fill_up_a_batch_do_not_count():
    metric = Accuracy()
    metric.add(batch([1, 0, 1], [1, 1, 1], [1, 2, 3], [1, 1, 1]))
    metric.add(batch([0, 1, 1], [0, 1, 1], [6, 99, np.nan], [1, 0, 0]))
    assert metric.result() == {"top1": 0.5, "top5": 0.75, "loss": 3, "num_images": 4}


def test_nothing_has_no_accuracy():
    with pytest.raises(
        ConfigError, match="No images were evaluated, so that there is no accuracy"
    ):
        Accuracy().result()


def add(metric, labels, predictions, valid=None):
    hits = np.equal(labels, predictions)
    outputs = batch(hits, hits, np.zeros(len(labels)), [1] * len(labels))
    if valid is not None:
        outputs["valid"] = np.array(valid, bool)
    labels, predictions = np.array(labels), np.array(predictions)
    metric.add({**outputs, "label": labels, "prediction": predictions})


def test_classes_that_no_image_has_are_named(caplog):
    metric = Accuracy(["cat", "dog", "fish"])
    for labels, valid in (([0, 1], [1, 0]), ([0, 2], [1, 0])):
        add(metric, labels, labels, valid)
    metric.result()
    expected = "No image of the evaluation split is of the classes dog, fish: the"
    assert expected in metric.table()
    assert expected in caplog.text
    add(metric, [1, 2], [1, 2])
    assert "No image" not in metric.table()


def test_each_class_has_its_scores(tmp_path):
    metric = Accuracy(["cat", "a|b", "fish"])
    add(metric, [0, 0, 0, 1], [0, 0, 1, 1])
    add(metric, [0, 1, 1], [1, 0, 2], [1, 1, 0])
    # Cats: 2 of 4 found, 2 of the 3 taken for one; the other: 1 of 2 and 1 of 3.
    table = metric.table().splitlines()
    assert table[0] == "| class | images | precision | recall | F1 |"
    assert table[2] == "| cat | 4 | 66.67 | 50.00 | 57.14 |"
    assert table[3] == "| a\\|b | 2 | 33.33 | 50.00 | 40.00 |"
    assert table[4] == "| fish | 0 |  |  |  |"
    assert table[5] == "| mean | 6 | 50.00 | 50.00 | 48.57 |"

    metric.confusion.write(tmp_path)
    lines = (tmp_path / "confusion.csv").read_text().splitlines()
    assert lines == [
        "label \\ prediction,cat,a|b,fish",
        "cat,2,2,0",
        "a|b,1,1,0",
        "fish,0,0,0",
    ]
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[0] == "class,images,precision,recall,f1"
    assert lines[3] == "fish,0,nan,nan,nan"


def test_of_many_classes_the_worst_are_listed():
    metric = Accuracy([f"class {k}" for k in range(60)])
    labels = np.arange(60)
    add(metric, labels, np.where(labels == 58, 59, labels))
    table = metric.table().splitlines()
    assert table[2].startswith("| class 58 | 1 |  | 0.00 | 0.00 |")
    assert table[3].startswith("| class 59 | 1 | 50.00 | 100.00 |")
    assert "The 50 classes with the lowest F1 are listed." in table
    assert len(table) == 2 + 50 + 1 + 2
