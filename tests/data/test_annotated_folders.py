import pickle

import pytest

from litv2_jax.data.annotated_folders import ADE20K_CLASSES, read_class_names
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


def test_images_may_have_other_endings(tree):
    (tree / "images/train/b.jpg").rename(tree / "images/train/b.PNG")
    source = open_annotated_source("folder", "train", str(tree))
    assert source[2] == PAIRS["b"]


def test_classes_are_named_in_a_file_or_are_those_of_ade20k(tree):
    names = open_annotated_source("folder", "train", str(tree)).class_names
    assert names == read_class_names(ADE20K_CLASSES)
    (tree / "classes.txt").write_text("background\ntraffic light \n")
    names = open_annotated_source("folder", "train", str(tree)).class_names
    assert names == ["background", "traffic light"]
    for text, line in (("a\n\nb\n", 2), ("", 1)):
        (tree / "classes.txt").write_text(text)
        with pytest.raises(ConfigError, match=f"in each line; line {line} is empty"):
            open_annotated_source("folder", "train", str(tree))


def test_the_source_can_be_sent_to_worker_processes(tree):
    source = open_annotated_source("folder", "train", str(tree))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(4)] == [source[i] for i in range(4)]
    # One string, however many files there are.
    assert source._names == "".join(f"{name}.jpg" for name in ORDER).encode()


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
