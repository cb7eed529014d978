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


def test_classes_that_no_image_has_are_named(caplog):
    metric = Accuracy(["cat", "dog", "fish"])
    for labels, valid in (([0, 1], [1, 0]), ([0, 2], [1, 0])):
        outputs = batch([1, 1], [1, 1], [0, 0], valid)
        metric.add({**outputs, "label": np.array(labels)})
    metric.result()
    expected = "No image of the evaluation split is of the classes dog, fish: the"
    assert expected in metric.table()
    assert expected in caplog.text
    metric.add({**batch([1, 1], [1, 1], [0, 0], [1, 1]), "label": np.array([1, 2])})
    assert metric.table() == ""
