"""Annotations in COCO's format, as COCO and several programs write them."""

import copy
import json
import re

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from litv2_jax import prepare
from litv2_jax.data.detection_records import find_trained, unpack_crop
from litv2_jax.data.sources.detection import open_detection_source
from litv2_jax.settings import ConfigError
from tests.reference import read_json

TRUTH = read_json("dense/coco_gt.json")
RUNS = {each["ann"]: each for each in read_json("dense/coco_rle.json")}
POLYGON = [[4.0, 5.0, 20.5, 6.0, 18.0, 25.0, 5.0, 20.0]]


def save_image(path, width, height, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


@pytest.fixture
def small(tmp_path):
    """Two images with an object each, as the least that a program may write."""
    for name, size in (("a.png", (40, 30)), ("b.png", (36, 50))):
        save_image(tmp_path / "images" / name, *size)
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 5, 17, 20]},
            {"id": 2, "image_id": 9, "category_id": 2, "segmentation": POLYGON},
        ],
    }


def run(folder, content, *options):
    """Runs the command; returns what it says if it fails, else None."""
    path = folder / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = ["coco", "--annotations", str(path), "--images"]
    arguments += [str(folder / "images"), "--data-dir", str(folder / "data")]
    try:
        prepare.main([*arguments, *options])
    except SystemExit as error:
        return str(error.code)


def open_prepared(folder, split="train"):
    return open_detection_source("coco", split, str(folder / "data"))


def test_records_have_what_the_stored_annotations_say(tmp_path, capsys):
    for image in TRUTH["images"]:
        path = tmp_path / "images" / image["file_name"]
        save_image(path, image["width"], image["height"])
    assert run(tmp_path, TRUTH) is None
    output = capsys.readouterr().out
    assert "Prepared 5 images with 22 annotations of 4 classes" in output
    assert "uses 19 of these objects, 7 in one image at most" in output

    source = open_prepared(tmp_path)
    assert source.class_names == ["c1", "c3", "c7", "c90"]
    assert source.category_ids == [1, 3, 7, 90]
    assert source.index.image_ids.tolist() == [x["id"] for x in TRUTH["images"]]
    assert "000000000107.jpg (record 1 of " in source.where(1)
    for i, image in enumerate(TRUTH["images"]):
        record = source[i]
        size = [image["height"], image["width"]]
        assert record["size"].tolist() == source.index.sizes[i].tolist() == size
        data = (tmp_path / "images" / image["file_name"]).read_bytes()
        assert bytes(record["image"]) == data
        stored = [x for x in TRUTH["annotations"] if x["image_id"] == image["id"]]
        boxes = np.reshape([x["bbox"] for x in stored], (-1, 4))
        np.testing.assert_array_equal(record["boxes"], boxes)
        assert record["areas"].tolist() == [x["area"] for x in stored]
        assert record["is_crowd"].tolist() == [x["iscrowd"] == 1 for x in stored]
        assert source.index.num_objects[i] == find_trained(record).sum()
        for number, annotation in enumerate(stored):
            crop, top, left = unpack_crop(record, number)
            mask = np.zeros(size, np.uint8, order="F")
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            counts = coco_mask.encode(mask)["counts"].decode()
            assert counts == RUNS[annotation["id"]]["counts"]


def test_what_is_missing_is_found_out(small, tmp_path):
    assert run(tmp_path, small) is None
    source = open_prepared(tmp_path)
    assert source.class_names == ["cat", "dog"]
    first, second = source[0], source[1]
    assert first["labels"].tolist() == [1]
    assert first["areas"].tolist() == [17 * 20]
    assert not first["has_mask"].any()
    assert second["has_mask"].all()
    # From the mask, like the area.
    assert second["boxes"].tolist() == [[4, 5, 17, 20]]
    assert second["areas"].sum() == unpack_crop(second, 0)[0].sum()
    assert source.index.num_unmasked.tolist() == [1, 0]


def test_all_ways_to_write_a_mask_are_the_same(small, tmp_path):
    fixed = coco_mask.frPyObjects(POLYGON, 30, 40)[0]
    mask = coco_mask.decode(fixed)
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    counts = np.diff(changes, prepend=0).tolist()
    compressed = {"size": [30, 40], "counts": fixed["counts"].decode()}
    forms = [POLYGON, POLYGON[0], {"size": [30, 40], "counts": counts}, compressed]
    forms += [[], None, [[1, 1, 2, 2]]]
    small["annotations"] = [
        {**small["annotations"][0], "id": i, "segmentation": form}
        for i, form in enumerate(forms)
    ]
    assert run(tmp_path, small) is None
    record = open_prepared(tmp_path)[0]
    assert record["has_mask"].tolist() == [True] * 4 + [False] * 3
    for number in range(4):
        crop, top, left = unpack_crop(record, number)
        assert crop.sum() == mask.sum()
        rows, columns = np.nonzero(crop)
        assert mask[rows + top, columns + left].all()


def test_a_class_that_only_groups_others_is_none(small, tmp_path):
    """As Roboflow writes its categories."""
    small["categories"] = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        *({**each, "supercategory": "animals"} for each in small["categories"]),
    ]
    assert run(tmp_path, small) is None
    assert open_prepared(tmp_path).class_names == ["cat", "dog"]


def test_splits_share_their_classes(small, tmp_path):
    assert run(tmp_path, small, "--split", "train") is None
    assert "has a split train already; remove" in run(tmp_path, small)
    other = copy.deepcopy(small)
    other["categories"][0]["name"] = "wolf"
    assert "differ in {'id': 5, 'name': 'wolf'}" in run(tmp_path, other, "--split=v")
    assert "--split is 'a/b'; give a name" in run(tmp_path, small, "--split", "a/b")
    # A test set has no annotations.
    del small["annotations"]
    assert run(tmp_path, small, "--split", "test") is None
    assert open_prepared(tmp_path, "test").index.num_annotations.tolist() == [0, 0]
    with pytest.raises(
        ConfigError, match="coco has no split val in .* has test, train"
    ):
        open_prepared(tmp_path, "val")
    with pytest.raises(ConfigError, match="cats is not prepared in .*prepare coco"):
        open_detection_source("cats", "train", str(tmp_path / "data"))


def annotate(**changes):
    """Changes the first annotation; None removes what it says."""

    def change(content):
        annotation = content["annotations"][0] | changes
        kept = {k: v for k, v in annotation.items() if v is not None}
        content["annotations"][0] = kept

    return change


def show(**changes):
    return lambda content: content["images"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (show(file_name="c.png"), "c.png: there is no such file in .*images"),
        (show(width=41, height=30), "a.png: the annotations say 41x30 .* has 40x30"),
        (show(file_name="b.png"), "b.png .image 9. is listed twice"),
        (show(id="7"), "whole number as id"),
        (annotate(image_id=8), "Annotation 1 is of the image 8, which the file does"),
        (annotate(category_id=3), r"a.png, .* category_id is 3, .* are \[2, 5\]"),
        (annotate(bbox=[1, 2, -3, 4]), r"a.png, .* bbox is \[1, 2, -3, 4\]; give x"),
        (annotate(bbox=None), "a.png, annotation 1: its bbox is None"),
        (annotate(bbox=[50, 2, 3, 4]), r"a.png, .* lies outside of the image, .*40x30"),
        (annotate(area="big"), "its area is 'big', which is no number"),
        (annotate(iscrowd=2), "its iscrowd is 2"),
        (annotate(segmentation=[[1, 2, 3]]), "where x and y of each corner"),
        (annotate(segmentation=[[1e9, 2, 3, 4, 5, 6]]), "corner at 1e.09, far outside"),
        (
            annotate(segmentation=[[50, 2, 60, 2, 60, 9]]),
            "its mask lies outside of the image, which is 40x30",
        ),
        (
            annotate(segmentation={"size": [40, 30], "counts": [1200]}),
            r"height and width \[40, 30\], but this one has \[30, 40\]",
        ),
        (
            annotate(segmentation={"size": [30, 40], "counts": [9, 99999]}),
            "run lengths of 100008 pixels in all, but the image has 1200",
        ),
        (
            annotate(segmentation={"size": [30, 40], "counts": "é"}),
            "which are no run lengths",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_can_be_left_out(
    small, tmp_path, change, message, capsys
):
    change(small)
    error = run(tmp_path, small)
    assert error is not None
    assert re.search(message, error), error
    assert "\n" not in error
    assert "leave them out by --allow-partial" in error
    assert not list((tmp_path / "data").rglob("*.*"))

    assert run(tmp_path, small, "--allow-partial") is None
    assert re.search(f"Left out: .*{message}", capsys.readouterr().out)
    assert len(open_prepared(tmp_path)) in (1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ([], "is not in COCO's format"),
        ({"images": 3}, "images should be a list of objects, but is 3"),
        ({"images": []}, "has no images"),
        ({"images": [{}], "categories": []}, "has no categories"),
        ({"images": [{}], "categories": [{"id": 1}]}, "whole number as id and a text"),
        (
            {"images": [{}], "categories": [{"id": i, "name": "a"} for i in (1, 2)]},
            "several categories with the name a",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "images").mkdir()
    error = run(tmp_path, content)
    assert error is not None
    assert message in error


def test_an_image_is_annotated_as_it_is_shown(small, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save_image(tmp_path / "images" / "a.png", 40, 30, exif=exif.tobytes())
    small["images"][0] |= {"width": 40, "height": 30}
    error = run(tmp_path, small)
    assert error is not None
    assert "turned upright by its EXIF orientation 6" in error
    small["images"][0] |= {"width": 30, "height": 40}
    assert run(tmp_path, small) is None
    assert open_prepared(tmp_path)[0]["size"].tolist() == [40, 30]


def test_published_files_are_complete(small, tmp_path):
    (tmp_path / "instances_val2017.json").write_text(json.dumps(small))
    arguments = ["coco", "--images", str(tmp_path / "images"), "--data-dir"]
    arguments += [str(tmp_path / "data"), "--annotations"]
    arguments.append(str(tmp_path / "instances_val2017.json"))
    with pytest.raises(SystemExit, match="2 images and 2 annotations, but COCO's has"):
        prepare.main(arguments)
    prepare.main([*arguments, "--allow-partial"])


def test_drawn_shapes_have_boxes_and_masks_of_what_can_be_seen(tmp_path):
    source = open_detection_source("shapes", "test[:8]", str(tmp_path))
    assert source.class_names == ["circle", "square", "triangle", "cross", "ring"]
    assert len(source) == 8
    assert source.index.num_unmasked.sum() == 0
    record = source[3]
    assert 1 <= len(record["labels"]) <= 4
    for number, (x, y, width, height) in enumerate(record["boxes"]):
        crop, top, left = unpack_crop(record, number)
        assert crop.sum() == record["areas"][number]
        rows, columns = (np.flatnonzero(crop.any(axis)) for axis in (1, 0))
        assert [left + columns[0], top + rows[0]] == [x, y]
        assert [np.ptp(columns) + 1, np.ptp(rows) + 1] == [width, height]
