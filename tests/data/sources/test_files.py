import logging
import os

import pytest

from litv2_jax.data.sources.files import (
    PackedNames,
    find_folder,
    list_files,
    list_folders,
)
from litv2_jax.settings import ConfigError

SUFFIXES = (".jpg", ".png")


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_names_are_kept_as_they_are():
    names = ["a.jpg", "", "\u732b/$x$ %s.JPG", os.fsdecode(b"caf\xe9.png")]
    packed = PackedNames(names)
    assert [packed[i] for i in range(4)] == names
    assert len(packed) == 4
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]
    assert len(PackedNames([])) == 0


def test_files_are_listed_by_suffix_in_any_case(tmp_path):
    write(tmp_path, "b.JPG", "a.Png", "sub/c.jpg", "d.txt", "jpg", "e.jpg.part")
    assert list_files(tmp_path, SUFFIXES) == ["a.Png", "b.JPG", "sub/c.jpg"]


def test_what_is_hidden_is_passed_over(tmp_path):
    write(tmp_path, "a.jpg", "._a.jpg", ".hidden/b.jpg", "__MACOSX/c.jpg")
    write(tmp_path, "cat/.DS_Store", "@eaDir/a.jpg", "deep/.ipynb_checkpoints/a.jpg")
    assert list_files(tmp_path, SUFFIXES) == ["a.jpg"]
    assert list_folders(tmp_path) == ["cat", "deep"]


def test_a_folder_is_one_whatever_its_name(tmp_path):
    write(tmp_path, "x.jpg/a.jpg", "b.jpg")
    assert list_files(tmp_path, SUFFIXES) == ["b.jpg", "x.jpg/a.jpg"]


def test_names_that_are_not_utf8_are_listed(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(path, "wb"):
        pass
    assert list_files(tmp_path, SUFFIXES) == [os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../outside"])
def test_links_are_followed_but_not_in_circles(tmp_path, target, caplog):
    root = tmp_path / "data"
    write(root, "cat/a.jpg")
    write(tmp_path, "outside/b.jpg")
    (root / "cat" / "link").symlink_to(target)
    with caplog.at_level(logging.WARNING):
        found = list_files(root / "cat", SUFFIXES)
    if target == "../../outside":
        assert found == ["a.jpg", "link/b.jpg"]
        assert not caplog.records
    else:
        assert found == ["a.jpg"]
        assert "link is passed over: it is a link to a folder that it is" in caplog.text


def test_two_links_that_lead_to_each_other_end(tmp_path):
    write(tmp_path, "x/a/1.jpg", "x/b/2.jpg")
    (tmp_path / "x/a/to_b").symlink_to("../b")
    (tmp_path / "x/b/to_a").symlink_to("../a")
    found = list_files(tmp_path / "x", SUFFIXES)
    # By each way once.
    assert found == ["a/1.jpg", "a/to_b/2.jpg", "b/2.jpg", "b/to_a/1.jpg"]


def test_a_link_that_leads_nowhere_is_a_file_that_is_missing(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert list_files(tmp_path, SUFFIXES) == ["gone.jpg", "itself.jpg"]
    assert list_folders(tmp_path) == []


def test_a_folder_that_is_not_there_is_named_with_those_beside_it(tmp_path):
    write(tmp_path, "train/a.jpg", ".hidden/a.jpg")
    with pytest.raises(ConfigError, match="no folder .*/test; .* has train$|train\\."):
        find_folder(tmp_path / "test")
    with pytest.raises(ConfigError, match="nothing near it"):
        find_folder(tmp_path / "nowhere" / "test")
    assert find_folder(tmp_path / "train") == tmp_path / "train"
