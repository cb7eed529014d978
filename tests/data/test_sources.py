import pickle
import resource
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from litv2_jax.data.sources import check_same_classes, open_source
from litv2_jax.data.sources.open_files import allow_many_open_files
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from tests.data.record_files import digits_as_tfrecord


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return digits_as_tfrecord(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def tree(tmp_path):
    """A tree in which every order but torchvision's gives another list."""
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((24, 16))
    names = [
        "train/zebra/b.JPEG",
        "train/zebra/a.png",
        "train/ant/more/x.jpg",
        "train/ant/more/hidden.webp",
        "train/ant/more/._x.jpg",
        "train/.ipynb_checkpoints/x.jpg",
        *(f"train/ant/more/{i}/y.ppm" for i in (3, 1, 4, 2)),
        "train/ant/z.jpeg",
        "train/ant/B.bmp",
        "train/Bee/1.Tiff",
        "val/zebra/1.jpg",
        "val/ant/1.jpg",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    (tmp_path / "train/ant/notes.txt").write_text("no image")
    (tmp_path / "train/README").write_text("no class")
    return tmp_path


def test_folders_are_listed_as_torchvision_does(tree):
    source = open_source("folder", "train", str(tree))
    assert source.class_names == ["Bee", "ant", "zebra"]
    expected = [
        ("Bee/1.Tiff", 0),
        ("ant/B.bmp", 1),
        ("ant/z.jpeg", 1),
        ("ant/more/hidden.webp", 1),
        ("ant/more/x.jpg", 1),
        *((f"ant/more/{i}/y.ppm", 1) for i in (1, 2, 3, 4)),
        ("zebra/a.png", 2),
        ("zebra/b.JPEG", 2),
    ]
    assert len(source) == len(expected)
    for index, (name, label) in enumerate(expected):
        path = tree / "train" / name
        assert source[index] == {"image": path.read_bytes(), "label": label}
        where = f"folder, split train, record {index} ({path})"
        assert source.where(index) == where
    for index in (-1, 11):
        with pytest.raises(IndexError):
            source[index]


def test_folders_can_be_sent_to_worker_processes(tree):
    source = open_source("folder", "train", str(tree))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(11)] == [source[i] for i in range(11)]


def test_a_file_that_is_gone_is_unreadable(tree):
    source = open_source("folder", "val", str(tree))
    (tree / "val/ant/1.jpg").unlink()
    with pytest.raises(UnreadableImageError, match="No such file"):
        source[0]


def test_folders_that_are_not_there_are_named(tree, tmp_path):
    with pytest.raises(ConfigError, match="no folder .*/test; .* has train, val"):
        open_source("folder", "test", str(tree))
    with pytest.raises(ConfigError, match="no folder .*nowhere/train; nothing"):
        open_source("folder", "train", str(tree / "nowhere"))
    with pytest.raises(ConfigError, match="data_dir is empty"):
        open_source("folder", "train", "")
    with pytest.raises(ConfigError, match="zebra has no folders"):
        open_source("folder", "train/zebra", str(tree))
    (tree / "train" / "cat").mkdir()
    with pytest.raises(ConfigError, match="cat has no images .* remove it or fill it"):
        open_source("folder", "train", str(tree))


def test_splits_of_other_classes_are_an_error(tree):
    train, val = (open_source("folder", s, str(tree)) for s in ("train", "val"))
    check_same_classes(train, train)
    with pytest.raises(ConfigError, match="3 classes.*split 2.*differ \\(in Bee"):
        check_same_classes(train, val)


@pytest.mark.parametrize("split", ["train", "train[65%:75%]", "train[-3:]+test[:2]"])
def test_tfrecord_and_array_record_have_the_same_records(digits, split):
    array, tf = (open_source("digits", split, str(folder)) for folder in digits)
    assert len(array) == len(tf)
    assert tf.class_names == list("0123456789")
    for index in np.linspace(0, len(array) - 1, 40).astype(int).tolist():
        assert tf[index] == array[index]
    copy = pickle.loads(pickle.dumps(tf))
    assert copy[1] == tf[1]


def test_records_of_tfds_are_named_by_split_number_and_file(digits):
    array, tf = (open_source("digits", "train[50%:]", str(f)) for f in digits)
    folder = "digits/1.0.0/digits-train"
    assert array.where(300) == (
        "digits, split train[50%:], record 300 (number 1018 of "
        f"{digits[0]}/{folder}.array_record-00000-of-00001)"
    )
    assert tf.where(300) == (
        "digits, split train[50%:], record 300 (number 18 of "
        f"{digits[1]}/{folder}.tfrecord-00001-of-00002)"
    )


@pytest.mark.parametrize("kind", ["array", "tfrecord"])
def test_a_damaged_record_of_tfds_is_unreadable_and_the_others_are_not(
    digits, kind, tmp_path
):
    shutil.copytree(digits[0].parent / kind, tmp_path / kind)
    path = next(tmp_path.glob(f"{kind}/digits/1.0.0/digits-test.*-00000-of-00001"))
    data = bytearray(path.read_bytes())
    second = int(np.frombuffer(data[:8], np.int64)[0]) + 16
    # Not the length of a TFRecord, without which all that follow would be lost.
    at = second + 12 if kind == "tfrecord" else len(data) // 2
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    source = open_source("digits", "test", str(tmp_path / kind))
    bad = []
    for index in range(len(source)):
        try:
            source[index]
        except UnreadableImageError:
            bad.append(index)
    assert len(bad) == 1
    if kind == "tfrecord":
        assert bad == [1]


def test_missing_and_unknown_files_of_tfds_are_named(digits, tmp_path):
    shutil.copytree(digits[1], tmp_path / "copy")
    folder = tmp_path / "copy" / "digits" / "1.0.0"
    (folder / "digits-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ConfigError, match="00001-of-00002 is missing; copy it again"):
        open_source("digits", "train", str(tmp_path / "copy"))
    assert len(open_source("digits", "test", str(tmp_path / "copy"))) == 360


@pytest.mark.parametrize(
    "name", ["$x^2$", "_50% <b>", "\u732b", "a.jpg", "c\x1b[31m\n"]
)
def test_classes_may_have_any_name(tree, name):
    (tree / "train/zebra").rename(tree / "train" / name)
    source = open_source("folder", "train", str(tree))
    assert sorted(source.class_names) == sorted(["Bee", "ant", name])
    index = next(i for i in range(11) if source.class_names[source[i]["label"]] == name)
    # A terminal obeys what is between these.
    assert "\x1b" not in source.where(index)
    assert "\n" not in source.where(index)


def test_a_class_name_is_the_same_in_either_form_of_unicode(tree):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tree / "train/zebra").rename(tree / "train" / decomposed)
    (tree / "val/zebra").rename(tree / "val" / composed)
    train = open_source("folder", "train", str(tree))
    assert composed in train.class_names
    val = open_source("folder", "val", str(tree), train.class_names)
    assert {train.class_names[val[i]["label"]] for i in range(2)} == {"ant", composed}
    shutil.copytree(tree / "train" / decomposed, tree / "train" / composed)
    with pytest.raises(ConfigError, match="has the class caf\u00e9 2 times"):
        open_source("folder", "train", str(tree))


def test_a_split_to_evaluate_on_may_lack_a_class_but_have_no_other(tree):
    names = open_source("folder", "train", str(tree)).class_names
    val = open_source("folder", "val", str(tree), names)
    assert val.class_names == names
    assert [names[val[i]["label"]] for i in range(2)] == ["ant", "zebra"]
    # Its folder may be there, and empty.
    (tree / "val/Bee").mkdir()
    assert len(open_source("folder", "val", str(tree), names)) == 2
    (tree / "val/cat").mkdir()
    message = "1 folders that are no classes of the training split: cat; its classes"
    with pytest.raises(ConfigError, match=message):
        open_source("folder", "val", str(tree), names)


def test_a_link_that_leads_nowhere_is_unreadable(tree):
    (tree / "val/ant/2.jpg").symlink_to("nowhere.jpg")
    source = open_source("folder", "val", str(tree))
    with pytest.raises(UnreadableImageError, match="No such file"):
        source[1]


def test_a_record_of_tfds_whose_label_is_no_class_is_unreadable(digits, monkeypatch):
    """Splits without labels have -1, which would train as a class without name."""
    source = open_source("digits", "test", str(digits[0]))
    assert source[0]["label"] in range(10)
    for label in (-1, 10):
        monkeypatch.setattr(
            type(source).__mro__[1],
            "__getitem__",
            lambda self, index, label=label: {"image": b"", "label": label},
        )
        with pytest.raises(UnreadableImageError, match=f"its label is {label}, but"):
            source[0]


@pytest.fixture
def limits(monkeypatch):
    """Limits of open files that only this test sees: soft, hard, most that is taken."""
    state = {"limits": (256, resource.RLIM_INFINITY), "most": 10**9}

    def set_limits(kind, limits):
        assert kind == resource.RLIMIT_NOFILE
        if limits[0] > state["most"]:
            raise ValueError("current limit exceeds maximum limit")
        state["limits"] = limits

    monkeypatch.setattr(resource, "getrlimit", lambda kind: state["limits"])
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return state


@pytest.mark.parametrize(
    ("soft", "hard", "most", "expected"),
    [
        (256, resource.RLIM_INFINITY, 10**9, 65536),
        # macOS refuses what is above its own limit, although it names none.
        (256, resource.RLIM_INFINITY, 10240, 10240),
        (256, resource.RLIM_INFINITY, 300, 256),
        (1024, 10**9, 10**9, 65536),
        (1024, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (10**6, 10**6, 10**6, 10**6),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 0, resource.RLIM_INFINITY),
    ],
)
def test_many_files_may_be_open_wherever_that_is_possible(
    limits, soft, hard, most, expected
):
    limits.update(limits=(soft, hard), most=most)
    allow_many_open_files()
    assert limits["limits"] == (expected, hard)


def test_the_limit_of_open_files_is_really_raised():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        allow_many_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
