"""ImageNet with smaller training images; tests/test_prepare.py prepares it as it is."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from litv2_jax.data.decode import decode, orientation
from litv2_jax.data.prepare import imagenet_archives
from litv2_jax.data.prepare.smaller_images import QUALITY, shrink, shrink_all
from litv2_jax.data.sources import open_source
from litv2_jax.prepare import main
from litv2_jax.settings import ConfigError
from litv2_jax.tasks.task_data import find_sizes
from tests.test_prepare import PHOTO, fail, tar


def encode(width, height, kind="JPEG", turn=1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    PHOTO.crop((0, 0, width, height)).save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "smaller"), [((160, 120), (85, 64)), ((100, 213), (64, 136))]
)
def test_the_shorter_side_is_as_long_as_asked_for(size, smaller):
    data = encode(*size, quality=95)
    image = Image.open(io.BytesIO(shrink(data, 64)))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", smaller)
    expected = decode(data).resize(smaller, Image.Resampling.BICUBIC)
    difference = np.asarray(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_that_are_small_enough_are_not_touched(kind):
    for size in ((64, 90), (80, 40)):
        data = encode(*size, kind)
        assert shrink(data, 64) == data


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_exif_orientation_means_the_same_as_before(turn):
    data = encode(160, 120, turn=turn, quality=95)
    small = shrink(data, 64)
    assert orientation(Image.open(io.BytesIO(small))) == turn
    for exif in ("ignored", "applied"):
        image = decode(small, exif)
        expected = decode(data, exif).resize(image.size, Image.Resampling.BICUBIC)
        difference = np.asarray(image).astype(int) - np.asarray(expected)
        assert np.abs(difference).mean() < 3


def test_what_cannot_be_read_is_left_to_the_run():
    for data in (b"", b"<html>", encode(160, 120)[:-500]):
        assert shrink(data, 64) == data


def test_images_keep_their_order():
    images = [(str(i), encode(70 + i, 90)) for i in range(40)]
    found = list(shrink_all(iter(images), 64))
    assert [name for name, _ in found] == [name for name, _ in images]
    assert [data for _, data in found] == [shrink(data, 64) for _, data in images]


def test_imagenet_with_smaller_images_is_another_data_set(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(imagenet_archives, "_COUNTS", {"train": 2, "validation": 1})
    large = {f"n01484850_{i}.JPEG": encode(160 + i, 120) for i in (3, 18)}
    validation = encode(150, 100)
    train = tar({"n01484850.tar": tar(large)})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train)
    archive = tar({"ILSVRC2012_val_00000001.JPEG": validation})
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(archive)
    data_dir = str(tmp_path / "data")
    place = ["--archives", str(tmp_path), "--data-dir", data_dir]
    command = ["imagenet2012", *place, "--short-side", "64"]
    with pytest.raises(ConfigError, match="prepare imagenet2012 --short-side 64` does"):
        open_source("imagenet2012_short64", "train", data_dir)

    main(command)
    assert "Prepared 2 of train, 1 of validation." in capsys.readouterr().out
    source = open_source("imagenet2012_short64", "train", data_dir)
    images = [source[i]["image"] for i in range(len(source))]
    assert {*images} == {shrink(data, 64) for data in large.values()}
    assert source.class_names[source[0]["label"]] == "n01484850"
    unchanged = open_source("imagenet2012_short64", "validation", data_dir)
    assert unchanged[0]["image"] == validation
    (info,) = (tmp_path / "data").rglob("dataset_info.json")
    info = json.loads(info.read_text())
    assert info["name"] == "imagenet2012_short64"
    assert "more than 64 pixels are resized to that" in info["description"]
    assert f"JPEG of quality {QUALITY}" in info["description"]

    assert "imagenet2012_short64 is prepared already" in fail(*command)
    with pytest.raises(ConfigError, match="imagenet2012 is not prepared in"):
        open_source("imagenet2012", "train", data_dir)
    assert "--short-side is 9 but must be within" in fail(*command[:-1], "9")


def test_runs_without_data_know_the_size_of_the_smaller_images():
    assert find_sizes("imagenet2012_short400") == find_sizes("imagenet2012")
    with pytest.raises(ConfigError, match="The size of the data set photos"):
        find_sizes("photos")
    with pytest.raises(ConfigError, match="The size of the data set my_shorts"):
        find_sizes("my_shorts")
