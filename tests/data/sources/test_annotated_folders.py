import pickle
import unicodedata

import pytest

from litv2_jax.class_names import ade20k_names
from litv2_jax.data.sources import open_annotated_source
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from tests.data.annotated import make_pair, write_tree

PAIRS = {
    name: make_pair(20, 30, seed)
    for seed, name in enumerate(["b", "a.1", "berlin/c", "aachen/d"])
}
ORDER = ["a.1", "aachen/d", "b", "berlin/c"]


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path, "train", PAIRS)
    write_tree(tmp_path, "val", {"e": make_pair(20, 30, 9)})
    (tmp_path / "images/train/notes.txt").write_text("no image")
    (tmp_path / "classes.txt").write_text("background\ntraffic light \n")
    return tmp_path


def test_images_and_annotations_of_the_same_name_belong_together(tree):
    source = open_annotated_source("folder", "train", str(tree))
    assert len(source) == len(PAIRS)
    for index, name in enumerate(ORDER):
        assert source[index] == PAIRS[name]
        path = tree / "images" / "train" / f"{name}.jpg"
        assert source.where(index) == f"folder, split train, record {index} ({path})"
    for index in (-1, 4):
        with pytest.raises(IndexError):
            source[index]
    assert len(open_annotated_source("folder", "val", str(tree))) == 1


@pytest.mark.parametrize("ending", [".PNG", ".Jpeg", ".JPG"])
def test_images_and_annotations_may_have_endings_in_any_case(tree, ending):
    (tree / "images/train/b.jpg").rename(tree / f"images/train/b{ending}")
    (tree / "annotations/train/b.png").rename(tree / "annotations/train/b.Png")
    source = open_annotated_source("folder", "train", str(tree))
    assert source[2] == PAIRS["b"]
    assert source.where(2).endswith(f"b{ending})")


def test_partners_may_be_named_in_either_form_of_unicode(tree):
    name = "\u00e9t\u00e9 \u732b $x$ 100%_\u0131"
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for image, annotation in (forms, forms[::-1]):
        write_tree(tree, "odd", {image: PAIRS["b"]})
        path = tree / f"annotations/odd/{image}.png"
        path.rename(path.with_name(f"{annotation}.png"))
        source = open_annotated_source("folder", "odd", str(tree))
        assert source[0] == PAIRS["b"]
        assert f"/{image}.jpg" in source.where(0)
        (tree / f"images/odd/{image}.jpg").unlink()
        (tree / f"annotations/odd/{annotation}.png").unlink()


def test_hidden_files_and_folders_are_no_records(tree):
    for name in (
        "images/train/.DS_Store",
        "images/train/._b.jpg",
        "images/train/.ipynb_checkpoints/b-checkpoint.jpg",
        "images/train/__MACOSX/b.jpg",
        "annotations/train/._b.png",
        "annotations/train/.ipynb_checkpoints/x.png",
    ):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"nothing")
    (tree / "images/train/folder.jpg").mkdir()
    assert len(open_annotated_source("folder", "train", str(tree))) == len(PAIRS)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("images", ("b.jpg", "b.png")),
        ("images", ("b.jpg", "b.JPG")),
        ("annotations", ("b.png", "b.PNG")),
    ],
)
def test_two_files_of_one_stem_are_an_error_that_names_both(tree, kind, names):
    old, new = (tree / kind / "train" / name for name in names)
    new.write_bytes(old.read_bytes())
    with pytest.raises(ConfigError) as found:
        open_annotated_source("folder", "train", str(tree))
    assert all(repr(name) in str(found.value) for name in names)
    # Two files with a partner each are no such case.
    new.rename(new.with_name("c.x.png" if kind == "annotations" else "c.x.jpg"))
    other = "annotations" if kind == "images" else "images"
    ending = ".png" if kind == "images" else ".jpg"
    (tree / other / "train" / f"c.x{ending}").write_bytes(b"")
    assert len(open_annotated_source("folder", "train", str(tree))) == len(PAIRS) + 1


def test_annotations_as_jpeg_are_refused(tree):
    path = tree / "annotations/train/b.png"
    path.rename(path.with_suffix(".jpg"))
    message = "has b.jpg, but annotations have to be PNG files.*JPEG changes them"
    with pytest.raises(ConfigError, match=message):
        open_annotated_source("folder", "train", str(tree))


def test_classes_are_named_in_a_file(tree):
    names = open_annotated_source("folder", "train", str(tree)).class_names
    assert names == ["background", "traffic light"]
    # As editors on other systems write it.
    text = "\ufeffbackground\r\ne\u0301t\u00e9\r\n\r\n"
    (tree / "classes.txt").write_bytes(text.encode())
    names = open_annotated_source("folder", "train", str(tree)).class_names
    assert names == ["background", "\u00e9t\u00e9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\n\nb\n", "in each line; line 2 is empty"),
        (b"", "in each line; line 1 is empty"),
        (b"cat\ndog\ncat\n", "has the class cat 2 times"),
        (b"caf\xe9\n", "is not in UTF-8"),
    ],
)
def test_a_file_of_classes_that_cannot_be_right_is_refused(tree, text, message):
    (tree / "classes.txt").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        open_annotated_source("folder", "train", str(tree))


def test_no_list_of_classes_is_assumed_for_other_data_than_its_own(tree):
    (tree / "classes.txt").unlink()
    with pytest.raises(ConfigError, match="has no classes.txt: write the name of a"):
        open_annotated_source("folder", "train", str(tree))
    # The published tree of ADE20K has this file.
    (tree / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    source = open_annotated_source("folder", "train", str(tree))
    assert source.class_names == ade20k_names()


def test_the_source_can_be_sent_to_worker_processes(tree):
    source = open_annotated_source("folder", "train", str(tree))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(4)] == [source[i] for i in range(4)]
    # Not one Python string for each file.
    assert len(pickle.dumps(source._images)) < 500


@pytest.mark.parametrize("kind", ["images/val/e.jpg", "annotations/val/e.png"])
def test_a_file_that_is_gone_is_unreadable(tree, kind):
    source = open_annotated_source("folder", "val", str(tree))
    (tree / kind).unlink()
    with pytest.raises(UnreadableImageError, match=f"{kind}: No such file"):
        source[0]


def test_what_is_not_there_is_named(tree, tmp_path):
    def fails(message, split="train", data_dir=tree):
        with pytest.raises(ConfigError, match=message):
            open_annotated_source("folder", split, str(data_dir))

    fails("no folder .*/images/test; .*/images has train, val", split="test")
    fails("no folder .*/images/train; nothing near it", data_dir=tmp_path / "nowhere")
    fails("data_dir is empty", data_dir="")
    (tree / "images/empty").mkdir()
    (tree / "annotations/empty").mkdir()
    fails("images/empty has no images", split="empty")
    (tree / "annotations/train/berlin/c.png").rename(tree / "annotations/train/c.png")
    fails("1 of 4 images in .* no annotation of the same name, such as berlin/c.jpg")
    (tree / "images/train/berlin/c.jpg").unlink()
    fails("1 of 4 annotations in .* have no image of the same name, such as c.png")
