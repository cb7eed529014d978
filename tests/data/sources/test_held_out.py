"""Trees without a folder to evaluate on are split by the names of their files."""

import pytest

from litv2_jax.data.sources import open_splits
from litv2_jax.settings import ConfigError


def make(root, counts):
    """Writes files of which only the names matter."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(b"x")
    return str(root)


def split(data_dir, fraction=0.2):
    return open_splits("folder", "train", "val", data_dir, fraction)


def names(part):
    return {part.where(i).split("(")[1] for i in range(len(part))}


def test_a_share_is_held_out_and_stays_so(tmp_path, caplog):
    make(tmp_path / "train", {"cat": 300, "dog": 200})
    train, evaluation = split(str(tmp_path))
    assert len(train) + len(evaluation) == 500
    assert 70 < len(evaluation) < 130
    assert not names(train) & names(evaluation)
    assert train.class_names == evaluation.class_names == ["cat", "dog"]
    assert f"{len(evaluation)} of its 500 images are held out" in caplog.text
    labels = [evaluation[i]["label"] for i in range(len(evaluation))]
    assert set(labels) == {0, 1}
    # More images and classes, and the old ones stay where they were.
    before = names(evaluation)
    make(tmp_path / "train", {"cat": 400, "ant": 50})
    _, after = split(str(tmp_path))
    old = {n for n in names(after) if "/ant/" not in n}
    assert {n for n in old if int(n.split("/")[-1].split(".")[0]) < 300} == before
    # Whatever folder they are in.
    make(tmp_path / "elsewhere" / "train", {"cat": 300, "dog": 200})
    _, other = split(str(tmp_path / "elsewhere"))
    assert len(other) == len(evaluation)


def test_folders_alone_are_classes(tmp_path):
    train, evaluation = split(make(tmp_path, {"cat": 30, "dog": 30}))
    assert train.class_names == ["cat", "dog"]
    assert len(train) + len(evaluation) == 60


def test_a_folder_to_evaluate_on_is_used(tmp_path):
    make(tmp_path / "train", {"cat": 30, "dog": 30})
    make(tmp_path / "val", {"cat": 3})
    train, evaluation = split(str(tmp_path))
    assert (len(train), len(evaluation)) == (60, 3)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_every_class_is_trained_on_and_something_evaluated(tmp_path, fraction):
    counts = {"ant": 1, "bee": 2, "cat": 3}
    train, evaluation = split(make(tmp_path, counts), fraction)
    assert {train[i]["label"] for i in range(len(train))} == {0, 1, 2}
    assert len(evaluation) >= 1
    assert len(train) + len(evaluation) == 6


def test_what_cannot_be_split_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="2 images, one of each class, so that none"):
        split(make(tmp_path, {"cat": 1, "dog": 1}))
    with pytest.raises(ConfigError, match="such as train\\[:80%\\]"):
        open_splits("cifar10", "train", "test", "", 0.2)
    make(tmp_path / "x" / "train", {"cat": 1})
    with pytest.raises(ConfigError, match="There is no folder .*val"):
        split(str(tmp_path / "x"), 0.0)
