import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from litv2_jax.data.sources.tfds import AnnotatedImageSource, ImageSource
from litv2_jax.settings import ConfigError
from tests.data.annotated import make_pair


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


def prepare_annotated(data_dir, name, annotation):
    """Prepares a data set of one record, with something that need not be read."""

    class Annotated(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "annotation": annotation,
                "title": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": iter([(0, {**make_pair(8, 9, 0), "title": "a"})])}

        def _generate_examples(self):
            raise NotImplementedError

    Annotated.name = name
    Annotated(data_dir=data_dir, file_format="array_record").download_and_prepare()


def test_annotations_are_read_as_they_are_stored(data_dir):
    labels = tfds.features.LabeledImage(labels=["sky", "sea"])
    prepare_annotated(data_dir, "two_classes", labels)
    source = AnnotatedImageSource("two_classes", "train", data_dir)
    assert source[0] == make_pair(8, 9, 0)
    assert source.class_names == ["sky", "sea"]
    copy = pickle.loads(pickle.dumps(source))
    assert copy[0] == source[0]


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_annotations_must_name_their_classes(data_dir, kind):
    unnamed = {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "labels": tfds.features.LabeledImage(labels=None),
    }
    prepare_annotated(data_dir, f"unnamed_{kind}", unnamed[kind])
    with pytest.raises(ConfigError, match="whose annotation does not name its classes"):
        AnnotatedImageSource(f"unnamed_{kind}", "train", data_dir)
