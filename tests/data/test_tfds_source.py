import io
import pickle

import numpy as np
import pytest
from PIL import Image

from litv2_jax.data.tfds_source import ImageSource
from litv2_jax.settings import ConfigError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def test_digits_are_prepared_on_first_use(data_dir):
    train, test = (ImageSource("digits", s, data_dir) for s in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == list("0123456789")
    record = train[5]
    image = Image.open(io.BytesIO(record["image"]))
    assert image.size == (64, 64)
    assert image.mode == "RGB"
    labels = [test[i]["label"] for i in range(len(test))]
    assert np.bincount(labels).min() > 25


def test_digits_are_those_of_scikit_learn(data_dir):
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    test = ImageSource("digits", "test", data_dir)
    found = {i: test[i] for i in range(0, 360, 40)}
    # TFDS shuffles what it writes: look for the original of each.
    small = {
        i: np.asarray(Image.open(io.BytesIO(r["image"])).convert("L").resize((8, 8)))
        for i, r in found.items()
    }
    for i, pixels in small.items():
        distance = np.abs(images[::5] * 255 / 16 - pixels.reshape(1, 64)).mean(1)
        assert labels[::5][distance.argmin()] == found[i]["label"]


def test_splits_may_be_parts(data_dir):
    assert len(ImageSource("digits", "train[:10%]", data_dir)) == 144


def test_sources_can_be_sent_to_worker_processes(data_dir):
    source = ImageSource("digits", "test", data_dir)
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7] == source[7]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("no_such_data", "train", "'no_such_data', which TensorFlow Datasets does not"),
        ("cifar10", "train", "cifar10 is not prepared in .*tfds build cifar10"),
        ("digits", "validation", "digits has no split 'validation'; it has"),
        ("imdb_reviews", "train", "classification needs image and label"),
    ],
)
def test_data_that_are_not_there_are_named(data_dir, name, split, message):
    with pytest.raises(ConfigError, match=message):
        ImageSource(name, split, data_dir)
