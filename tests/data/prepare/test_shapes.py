import hashlib
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from litv2_jax.data.prepare.shapes import SHAPES, draw_image, find_box
from litv2_jax.data.sources import open_annotated_source, open_source
from litv2_jax.settings import ConfigError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def draw(number):
    return draw_image(np.random.default_rng([0, number]))


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_shapes_are_prepared_on_first_use(data_dir):
    train, test = (
        open_annotated_source("shapes", s, data_dir) for s in ("train", "test")
    )
    assert (len(train), len(test)) == (400, 100)
    assert train.class_names == ["background", *SHAPES]
    record = train[3]
    assert set(record) == {"image", "annotation"}
    image, annotation = decode(record["image"]), decode(record["annotation"])
    assert image.shape == (*annotation.shape, 3)
    assert image.dtype == annotation.dtype == np.uint8
    classes = {
        int(k) for i in range(20) for k in np.unique(decode(test[i]["annotation"]))
    }
    assert classes == set(range(6))


def test_annotations_boxes_and_instances_agree(data_dir):
    open_annotated_source("shapes", "test", data_dir)
    builder = tfds.builder("shapes", data_dir=data_dir)
    images = {"image", "annotation", "instances"}
    records = builder.as_data_source(
        "test", decoders={name: tfds.decode.SkipDecoding() for name in images}
    )
    for index in range(20):
        record = records[index]
        annotation, instances = (
            decode(record[name]) for name in ("annotation", "instances")
        )
        height, width = instances.shape
        boxes = np.reshape(record["objects"]["bbox"], (-1, 4))
        labels = list(record["objects"]["label"])
        assert instances.max() == len(labels) == len(boxes)
        assert ((annotation == 0) == (instances == 0)).all()
        for number, (box, label) in enumerate(zip(boxes, labels, strict=True), 1):
            assert set(annotation[instances == number]) == {label + 1}
            rows, columns = np.nonzero(instances == number)
            pixels = box * [height, width, height, width]
            expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_allclose(pixels, expected, atol=1e-4)


def test_images_are_always_the_same():
    digest = hashlib.sha256()
    for number in range(5):
        for array in draw(number):
            digest.update(np.asarray(array, np.uint8).tobytes())
    assert digest.hexdigest()[:16] == "d2b565cb7bd0aee8"


def test_sizes_and_counts_are_the_promised_ones():
    sides, counts, labels = [], [], []
    for number in range(200):
        image, instances, found = draw(number)
        assert image.shape[:2] == instances.shape
        sides += image.shape[:2]
        counts.append(len(found))
        labels += found
        # Nothing is dropped but what is hidden.
        assert set(np.unique(instances)) == set(range(len(found) + 1))
    assert (min(sides), max(sides)) == (80, 128)
    assert set(counts) == {1, 2, 3, 4}
    assert np.bincount(labels).min() > 50


def test_objects_differ_from_the_ground_in_colour():
    for number in range(50):
        image, instances, labels = draw(number)
        ground = image[instances == 0].mean(0)
        for i in range(len(labels)):
            assert abs(image[instances == i + 1].mean(0) - ground).sum() > 50


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("circle", np.pi / 4),
        ("square", 0.7**2),
        ("triangle", 3 * 3**0.5 / 16),
        ("cross", 0.3 * 0.95 * 2 - 0.3**2),
        ("ring", np.pi / 4 * 0.7),
    ],
)
def test_shapes_have_the_area_of_what_they_are_called(name, share):
    y, x = (np.mgrid[:400, :400] - 199.5) / 200
    assert SHAPES[name](x, y).mean() == pytest.approx(share, abs=0.003)
    # They stay in the image, however they are turned.
    assert not (SHAPES[name](x, y) & (x**2 + y**2 > 1)).any()


def test_boxes_go_around_pixels():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:12] = True
    assert find_box(mask) == tfds.features.BBox(ymin=0.2, xmin=0.2, ymax=0.5, xmax=0.6)


def test_data_without_what_is_needed_say_what_they_have(data_dir):
    with pytest.raises(ConfigError, match="has image, label; segmentation needs image"):
        open_annotated_source("digits", "train", data_dir)
    message = (
        "has image, annotation, instances, objects; classification needs image and"
    )
    with pytest.raises(ConfigError, match=message):
        open_source("shapes", "train", data_dir)
