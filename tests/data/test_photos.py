import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from litv2_jax.data.sources.tfds import ImageSource
from tests.data import photos


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    photos.prepare(directory)
    return directory


def read(data_dir, split):
    source = ImageSource("photos", split, data_dir)
    return [source[i] for i in range(len(source))]


def test_splits_have_every_class(data_dir):
    for split, number in (("train", 96), ("validation", 32)):
        labels = [record["label"] for record in read(data_dir, split)]
        assert len(labels) == number
        counts = np.bincount(labels, minlength=len(photos.TINTS))
        assert counts.min() >= number // len(photos.TINTS)


def test_photos_are_jpegs_of_the_size_of_imagenets(data_dir):
    files = [record["image"] for record in read(data_dir, "train")]
    images = [Image.open(io.BytesIO(file)) for file in files]
    assert {(image.format, image.mode) for image in images} == {("JPEG", "RGB")}
    assert 90_000 < np.mean([len(file) for file in files]) < 130_000
    sizes = [image.size for image in images]
    assert len(set(sizes)) > 6
    assert 400 < np.sqrt(np.mean([width * height for width, height in sizes])) < 500
    upright = np.mean([width < height for width, height in sizes])
    assert 0.1 < upright < 0.5
    # No photograph is there twice, in either split.
    files += [record["image"] for record in read(data_dir, "validation")]
    assert len(set(files)) == 128


def test_classes_can_be_learned_from_the_tint(data_dir):
    def find_mean_colors(records):
        images = [Image.open(io.BytesIO(record["image"])) for record in records]
        return np.stack([np.asarray(image).mean((0, 1)) for image in images])

    train, validation = read(data_dir, "train"), read(data_dir, "validation")
    known = find_mean_colors(train)
    nearest = [np.abs(known - x).sum(1).argmin() for x in find_mean_colors(validation)]
    is_right = [
        train[i]["label"] == record["label"]
        for i, record in zip(nearest, validation, strict=True)
    ]
    assert np.mean(is_right) > 0.8


def test_any_number_can_be_made(tmp_path):
    config = photos.PhotosConfig(name="few", num_train=5, num_validation=2)
    photos.prepare(str(tmp_path), config)
    lengths = [
        len(ImageSource("photos/few", split, str(tmp_path)))
        for split in ("train", "validation")
    ]
    assert lengths == [5, 2]


def test_a_process_that_does_not_know_the_builder_reads_them(data_dir):
    code = (
        "import sys; from litv2_jax.data.sources.tfds import ImageSource; "
        "print(len(ImageSource('photos', 'train', sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, data_dir]
    assert subprocess.check_output(command, text=True).strip() == "96"
