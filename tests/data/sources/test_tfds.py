import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from litv2_jax.data.sources import open_source
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


def prepare_published(data_dir, name, split, records, **options):
    """Prepares a data set that TFDS knows from records of our own."""
    published = tfds.builder_cls(name)

    class Small(published, skip_registration=True):
        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(records))}

    Small.name = name
    builder = Small(data_dir=data_dir, file_format="array_record", **options)
    builder.download_and_prepare()


def test_imagenet_v2_is_read_by_its_name(data_dir):
    image = make_pair(8, 9, 0)["image"]
    record = {"image": image, "label": 7, "file_name": "a.jpeg"}
    prepare_published(
        data_dir, "imagenet_v2", "test", [record], config="matched-frequency"
    )
    source = open_source("imagenet_v2/matched-frequency", "test", data_dir)
    assert source[0] == {"image": image, "label": 7}
    assert source.class_names[7] == "n01514668"


@pytest.fixture(scope="module")
def real(data_dir):
    """The labels of three images that are prepared as ImageNet with ReaL's labels."""
    labels = [[2, 999], [], [3]]
    image = make_pair(8, 9, 0)["image"]
    records = [
        {"image": image, "original_label": 2, "real_label": x, "file_name": f"{i}.jpeg"}
        for i, x in enumerate(labels)
    ]
    prepare_published(data_dir, "imagenet2012_real", "validation", records)
    return labels


def test_real_has_all_labels_of_an_image(data_dir, real):
    source = open_source("imagenet2012_real", "validation", data_dir)
    assert len(source.class_names) == 1000
    found = [np.flatnonzero(source[i]["label"]).tolist() for i in range(3)]
    assert sorted(found) == sorted(real)
    assert source[0]["image"] == make_pair(8, 9, 0)["image"]
    assert source[0]["label"].shape == (1000,)


@pytest.mark.usefixtures("real")
def test_real_is_scored_by_the_best_label_of_labeled_images(data_dir):
    """Through the task, and the transform and the batches of evaluation."""
    from configs import imagenet
    from litv2_jax import tasks
    from litv2_jax.training.run_settings import RunSettings

    config = imagenet.get_config("litv2_s")
    config.batch_size, config.augment.mix_group_size = 2, 0
    config.data.name, config.data.data_dir = "imagenet2012_real", data_dir
    config.data.image_size, config.data.num_workers = 32, 0
    run, rest = RunSettings.split(config.to_dict())
    options = {"batch_size": run.batch_size, "seed": run.seed, "scored": ()}
    task = tasks.create_task(run.task, rest, **options)
    metric = task.metric()
    for batch in task.eval_batches():
        # Class 999 for all of them.
        logits = np.zeros((2, 1000), np.float32)
        logits[:, 999] = 1
        metric.add(task.evaluate(lambda _: logits, batch))  # noqa: B023
    result = metric.result()
    assert result["num_images"] == 2
    assert result["top1"] == 0.5
