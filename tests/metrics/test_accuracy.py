import numpy as np
import pytest

from litv2_jax.metrics.accuracy import Accuracy


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
    with pytest.raises(ValueError, match="no accuracy of no images"):
        Accuracy().result()
