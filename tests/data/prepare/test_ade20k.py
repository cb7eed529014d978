import pytest

from litv2_jax import prepare
from litv2_jax.data.prepare import ade20k
from litv2_jax.data.sources import open_annotated_source
from litv2_jax.settings import ConfigError
from tests.data.annotated import make_pair, write_tree

PAIRS = {
    "training": {f"ADE_train_{i:08}": make_pair(20, 30 + i, i, 150) for i in range(5)},
    "validation": {f"ADE_val_{i:08}": make_pair(25, 20, i, 150) for i in range(2)},
}


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for split, pairs in PAIRS.items():
        write_tree(folder, split, pairs)
    (folder / "sceneCategories.txt").write_text("not needed")
    return folder


def run(tree, *options):
    """Runs the command; returns what it says if it fails, else None."""
    data_dir = str(tree.parent / "data")
    try:
        prepare.main(
            ["ade20k", "--source", str(tree), "--data-dir", data_dir, *options]
        )
    except SystemExit as error:
        return str(error.code)


def open_prepared(tree, split):
    return open_annotated_source("ade20k", split, str(tree.parent / "data"))


def test_there_are_150_classes_in_the_published_order():
    names = ade20k.CLASS_NAMES
    assert len(names) == len(set(names)) == 150
    assert names[:4] == ["wall", "building", "sky", "floor"]
    assert names[7] == "bed"
    assert (names[12], names[136]) == ("person", "traffic light")
    assert names[-2:] == ["clock", "flag"]


def test_files_are_kept_byte_for_byte(tree, monkeypatch, capsys):
    monkeypatch.setattr(ade20k, "_COUNTS", {"train": 5, "validation": 2})
    assert run(tree) is None
    assert "Prepared 5 of train, 2 of validation." in capsys.readouterr().out
    for split, folder in (("train", "training"), ("validation", "validation")):
        source = open_prepared(tree, split)
        assert source.class_names == ade20k.CLASS_NAMES
        found = {tuple(sorted(source[i].items())) for i in range(len(source))}
        assert found == {tuple(sorted(pair.items())) for pair in PAIRS[folder].values()}
    assert "is prepared already in" in str(run(tree))


def test_all_images_must_be_there_unless_they_need_not(tree, capsys):
    message = str(run(tree))
    assert "images/training has 5 images, not 20210; unpack http://data" in message
    assert not list((tree.parent / "data" / "ade20k").glob("*"))
    for kind in ("images", "annotations"):
        for path in (tree / kind / "validation").iterdir():
            path.unlink()
        (tree / kind / "validation").rmdir()
    assert "no folder" in str(run(tree))
    assert run(tree, "--allow-partial") is None
    assert "Prepared 5 of train." in capsys.readouterr().out
    assert len(open_prepared(tree, "train")) == 5
    with pytest.raises(ConfigError, match="has no split 'validation'; it has train"):
        open_prepared(tree, "validation")


def test_what_is_missing_is_named(tree):
    (tree / "annotations/training/ADE_train_00000003.png").unlink()
    message = str(run(tree, "--allow-partial"))
    assert "1 of 5 images in" in message
    assert "such as ADE_train_00000003.jpg" in message
    (tree / "annotations").rename(tree / "labels")
    message = str(run(tree, "--allow-partial"))
    assert f"{tree} has no folder annotations; give the folder ADEChal" in message
    message = str(run(tree / "images", "--allow-partial"))
    assert "images has no folder images and no folder annotations" in message
    for said in (message, str(run(tree))):
        assert said.startswith("litv2_jax.prepare: ")


def test_an_unprepared_data_set_says_how_to_prepare_it(tree):
    with pytest.raises(ConfigError, match="`python -m litv2_jax.prepare ade20k` does"):
        open_prepared(tree, "train")
