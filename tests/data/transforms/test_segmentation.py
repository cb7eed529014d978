import io

import numpy as np
import pytest
from PIL import Image

from litv2_jax.data.transforms import geometry, photometric, segmentation
from litv2_jax.data.transforms.segmentation import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    decode_annotation,
    decode_pair,
    read_size,
)
from litv2_jax.data.unreadable import UnreadableImageError
from tests.data.annotated import encode, make_pair

PAIR = make_pair(60, 90, seed=0)


def train(pair=PAIR, seed=0, crop_size=48, **options):
    options = {"scale": (128, 64), "zero_label": "class"} | options
    transform = SegmentationTrainTransform(crop_size, **options)
    return transform.random_map(pair, np.random.default_rng(seed))


def paint(label):
    """Returns a record whose image says by its colours what the annotation is."""
    colors = np.stack([label * 40, 255 - label * 40, label * 20], axis=2)
    return {"image": encode(colors), "annotation": encode(label)}


def test_a_training_image_has_its_label_beneath_it():
    label = np.zeros((60, 90), np.uint8)
    label[20:, 30:] = 3
    label[40:, :70] = 5
    pair = paint(label)
    sizes, sides = set(), set()
    for seed in range(40):
        batch = train(pair, seed, distortion=0.0, max_share=1.0)
        image, label = batch["image"], batch["label"]
        assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
        assert (label.shape, label.dtype) == ((48, 48), np.uint8)
        assert (batch["size"].shape, batch["size"].dtype) == ((2,), np.int32)
        height, width = batch["size"]
        sizes.add((int(height), int(width)))
        assert (label[height:] == 255).all()
        assert (label[:, width:] == 255).all()
        assert not image[height:].any()
        assert not image[:, width:].any()
        # But at the edges between classes, where the image is interpolated.
        inside = label[:height, :width].astype(int)
        wrong = abs(image[:height, :width, 0].astype(int) - inside * 40) > 2
        assert wrong.mean() < 0.2
        sides.add(bool(inside[:, 0].sum() > inside[:, -1].sum()))
    # Of some the shorter side is too short, of some both are long enough.
    assert {(48, 48)} < sizes
    assert sides == {False, True}


def test_the_ratio_scales_both_bounds():
    # 60 x 90 in (2 * 64, 2 * 128) is 128 x 192, in (32, 64) it is 32 x 48.
    assert train(ratio=(2.0, 2.0), crop_size=200)["size"].tolist() == [128, 192]
    assert train(ratio=(0.5, 0.5), crop_size=200)["size"].tolist() == [32, 48]
    # The longer side decides for a long image.
    long = make_pair(20, 100, seed=1)
    assert train(long, ratio=(1.0, 1.0), crop_size=200)["size"].tolist() == [26, 128]
    # Bounds are whole numbers: 1.4 * 64 is 89.
    assert train(ratio=(1.4, 1.4), crop_size=200)["size"].tolist() == [89, 134]
    heights = {train(seed=s, crop_size=200)["size"][0] for s in range(200)}
    assert min(heights) in (32, 33)
    assert max(heights) in (127, 128)


def test_crops_avoid_what_one_class_fills():
    label = np.zeros((64, 128), np.uint8)
    label[:, 100:] = 1
    shares = {}
    for max_share in (0.75, 1.0):
        options = {"ratio": (1.0, 1.0), "max_share": max_share, "crop_size": 40}
        found = [train(paint(label), seed, **options)["label"] for seed in range(50)]
        shares[max_share] = np.mean([(label == 0).mean() < 0.75 for label in found])
    assert shares[1.0] < 0.4
    assert shares[0.75] > 0.8


def test_flipping_and_distorting_have_their_probabilities(monkeypatch):
    flips = []
    monkeypatch.setattr(geometry, "flip", lambda x: flips.append(1) or x[:, ::-1])
    distorted = []
    monkeypatch.setattr(
        segmentation, "distort", lambda x, draws: distorted.append(draws) or x
    )
    for seed in range(400):
        train(seed=seed, flip=0.25, distortion=0.75)
    # Of the image and of the label.
    assert 140 < len(flips) < 260
    assert 260 < len(distorted) < 340
    assert all(isinstance(draws, photometric.Distortion) for draws in distorted)
    assert len(set(distorted)) > 200
    distorted.clear()
    for seed in range(50):
        train(seed=seed, distortion=0.0)
    assert not distorted


def test_colours_are_distorted_inside_only():
    changed = 0
    for seed in range(20):
        # What is drawn before the colours is the same.
        plain, distorted = (train(seed=seed, distortion=d) for d in (0.0, 1.0))
        np.testing.assert_array_equal(plain["label"], distorted["label"])
        height, width = plain["size"]
        assert not distorted["image"][height:].any()
        assert not distorted["image"][:, width:].any()
        changed += (plain["image"] != distorted["image"]).any()
    assert changed > 10


def test_zero_is_a_class_or_none():
    label = np.asarray(Image.open(io.BytesIO(PAIR["annotation"])))
    np.testing.assert_array_equal(decode_pair(PAIR, "class")[1], label)
    expected = np.where(label == 0, 255, label - 1)
    np.testing.assert_array_equal(decode_pair(PAIR, "ignored")[1], expected)
    # Pixels that are no class have no share of a crop, either.
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 4
    found = train(paint(half), zero_label="ignored", ratio=(1.0, 1.0))["label"]
    assert set(np.unique(found)) <= {3, 255}


def test_evaluation_resizes_the_image_and_keeps_the_label():
    transform = SegmentationEvalTransform((128, 64), "ignored")
    arrays = transform.map(PAIR)
    image, label = decode_pair(PAIR, "ignored")
    expected = geometry.resize_image(image, (64, 96))
    np.testing.assert_array_equal(arrays["image"], expected)
    np.testing.assert_array_equal(arrays["label"], label)
    assert transform.image_size((60, 90)) == (64, 96)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_classes_are_the_numbers_of_the_file_not_its_colours(mode):
    label = (np.arange(35) % (2 if mode == "1" else 7)).reshape(5, 7).astype(np.uint8)
    image = Image.fromarray(label).convert("1" if mode == "1" else "L")
    if mode == "P":
        image.putpalette(list(np.random.default_rng(0).integers(256, size=768)))
    if mode == "1":
        image = Image.fromarray(label.astype(bool))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert Image.open(file).mode == mode
    found = decode_annotation(file.getvalue())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


def test_sizes_are_read_from_the_beginning_of_a_file():
    assert read_size(PAIR["annotation"][:60]) == (60, 90)
    with pytest.raises(UnreadableImageError, match="annotation is no image"):
        read_size(b"no image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotation": encode(np.zeros((60, 80), np.uint8))}, "90x60 .* 80x60"),
        ({"annotation": encode(np.zeros((60, 90, 3), np.uint8))}, "the mode RGB of"),
        ({"annotation": PAIR["annotation"][:-60]}, "its annotation: .*Error"),
        ({"annotation": b""}, "its annotation is no image of a"),
        ({"image": PAIR["image"][:900]}, "OSError: "),
    ],
)
def test_pairs_that_cannot_be_used_say_why(change, message):
    with pytest.raises(UnreadableImageError, match=message):
        decode_pair(PAIR | change, "class")
