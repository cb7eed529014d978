import io
import re
import tarfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from litv2_jax import prepare
from litv2_jax.data.prepare import imagenet_archives
from litv2_jax.data.sources import open_source
from litv2_jax.data.transforms.imagenet import decode
from tests.data.annotated import encode, make_pair, write_tree
from tests.data.record_files import digits_as_tfrecord, write_tfrecord

PHOTO = Image.fromarray(load_sample_image("flower.jpg"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folders of TFDS with the digits as array_record and as TFRecord."""
    return digits_as_tfrecord(tmp_path_factory.mktemp("digits"))


def fail(*arguments) -> str:
    """Runs the program, which must fail, and returns what it says."""
    with pytest.raises(SystemExit) as found:
        prepare.main([str(argument) for argument in arguments])
    message = str(found.value.code)
    assert message.startswith("litv2_jax.prepare: ")
    assert "\n" not in message
    return message


def test_a_copy_has_the_same_bytes(digits, tmp_path, capsys):
    source = digits[1] / "digits/1.0.0"
    target = tmp_path / "digits/1.0.0"
    prepare.main(["tfrecord", str(source), str(target)])
    assert "Copied 1797 records" in capsys.readouterr().out

    expected = {p.name for p in source.iterdir() if p.suffix in (".json", ".txt")}
    for number in ("train.array_record-00000-of-00002", "test.array_record-00000-of"):
        assert len(list(target.glob(f"digits-{number}*"))) == 1
    assert expected < {p.name for p in target.iterdir()}
    for split in ("train", "test"):
        old, new = (open_source("digits", split, str(p)) for p in (digits[1], tmp_path))
        assert [new._records[i] for i in range(len(new))] == [
            old._records[i] for i in range(len(old))
        ]
        assert "array_record" in new.where(0)
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_a_copy_does_not_overwrite(digits, tmp_path):
    (tmp_path / "mine").write_text("precious")
    assert "is not empty" in fail("tfrecord", digits[1] / "digits/1.0.0", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def damaged(digits, tmp_path):
    """A copy of the digits as TFRecord, to be damaged."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in (digits[1] / "digits/1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "00001-of-00002 is missing"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "is cut short in the record"),
        (lambda p: write_tfrecord(p, [b"1"] * 436), "has 436 records, but .* says 437"),
        (lambda p: (p.parent / "dataset_info.json").unlink(), "no dataset_info.json"),
    ],
)
def test_a_source_that_is_not_complete_is_not_copied(
    damaged, tmp_path, damage, message
):
    damage(damaged / "digits-train.tfrecord-00001-of-00002")
    assert re.search(message, fail("tfrecord", damaged, tmp_path / "new" / "1.0.0"))
    assert not (tmp_path / "new" / "1.0.0").exists()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_copy_leaves_nothing(damaged, tmp_path, monkeypatch, error):
    def write_half(path, records):
        path.write_bytes(next(iter(records))[1])
        raise error

    monkeypatch.setattr(
        prepare.array_record_copy._ADAPTER, "write_examples", write_half
    )
    fail("tfrecord", damaged, tmp_path / "new" / "1.0.0")
    assert list((tmp_path / "new").iterdir()) == []


def jpeg(number: int, kind="JPEG", mode="RGB") -> bytes:
    file = io.BytesIO()
    crop = PHOTO.crop((number, number, number + 40, number + 30))
    crop.convert(mode).save(file, kind)
    return file.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


# Third and second in the list of classes, and out of order.
TRAIN = {
    "n01484850": {f"n01484850_{i}.JPEG": jpeg(i) for i in (3, 18)},
    "n01739381": {"n01739381_1309.JPEG": jpeg(50, mode="CMYK")},
    "n02105855": {"n02105855_2933.JPEG": jpeg(60, "PNG")},
}
VALIDATION = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(i) for i in (5, 3, 1)}


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    train = {f"{name}.tar": tar(images) for name, images in TRAIN.items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(VALIDATION))
    return folder


def imagenet(archives, *options):
    data_dir = archives.parent / "data"
    return ["imagenet2012", "--archives", archives, "--data-dir", data_dir, *options]


def test_imagenet_is_prepared_from_its_archives(archives, monkeypatch, capsys):
    monkeypatch.setattr(imagenet_archives, "_COUNTS", {"train": 4, "validation": 3})
    prepare.main([str(a) for a in imagenet(archives)])
    assert "Prepared 4 of train, 3 of validation." in capsys.readouterr().out

    data_dir = str(archives.parent / "data")
    train = open_source("imagenet2012", "train", data_dir)
    labels, images = {}, {}
    for i in range(len(train)):
        record = train[i]
        labels.setdefault(train.class_names[record["label"]], []).append(i)
        images[i] = record["image"]
    assert {name: len(found) for name, found in labels.items()} == {
        "n01484850": 2,
        "n01739381": 1,
        "n02105855": 1,
    }
    sharks = {images[i] for i in labels["n01484850"]}
    assert sharks == set(TRAIN["n01484850"].values())
    # Those that are no JPEG in three colours became one, of the same picture.
    for name, original in (
        ("n01739381", TRAIN["n01739381"]["n01739381_1309.JPEG"]),
        ("n02105855", TRAIN["n02105855"]["n02105855_2933.JPEG"]),
    ):
        image = Image.open(io.BytesIO(images[labels[name][0]]))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        before = np.asarray(decode(original)).astype(int)
        assert np.abs(np.asarray(image) - before).mean() < 3

    validation = open_source("imagenet2012", "validation", data_dir)
    found = {r["image"]: r["label"] for r in (validation[i] for i in range(3))}
    # The first lines of the lists in use for PyTorch and Caffe: 65, 970, 230, 809, 516.
    assert found == {
        VALIDATION["ILSVRC2012_val_00000001.JPEG"]: 65,
        VALIDATION["ILSVRC2012_val_00000003.JPEG"]: 230,
        VALIDATION["ILSVRC2012_val_00000005.JPEG"]: 516,
    }
    assert "is prepared already" in fail(*imagenet(archives))


def test_imagenet_must_be_complete_unless_it_need_not(archives, capsys):
    train = archives / "ILSVRC2012_img_train.tar"
    assert "has 4 images, not 1281167" in fail(*imagenet(archives))
    folder = archives.parent / "data" / "imagenet2012"
    assert not list(folder.glob("*"))
    # A whole archive may be missing, too.
    data = train.read_bytes()
    train.unlink()
    assert "does not have ILSVRC2012_img_train.tar" in fail(*imagenet(archives))
    train.write_bytes(data[: len(data) // 2])
    message = fail(*imagenet(archives, "--allow-partial"))
    assert "is damaged or cut short" in message
    assert not list(folder.glob("*"))
    train.unlink()
    prepare.main([str(a) for a in imagenet(archives, "--allow-partial")])
    assert "Prepared 3 of validation." in capsys.readouterr().out


def test_other_archives_are_not_taken_for_imagenet(archives):
    other = tar({"n99999999.tar": tar({"n99999999_1.JPEG": jpeg(1)})})
    (archives / "ILSVRC2012_img_train.tar").write_bytes(other)
    message = fail(*imagenet(archives, "--allow-partial"))
    assert "n99999999_1.JPEG, which is no image of ImageNet 2012" in message


def test_checking_names_what_is_unreadable(tmp_path, capsys):
    for name in ("a/1", "a/2", "a/3", "b/1"):
        path = tmp_path / "train" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(1))
    check = ["check", "--name", "folder", "--data-dir", tmp_path, "--split", "train"]
    prepare.main([str(a) for a in check])
    summary = "4 records, 0 of them unusable; 2 classes, the smallest of 1 images, the"
    assert summary in capsys.readouterr().out

    (tmp_path / "train/a/2.jpg").write_bytes(jpeg(1)[:-200])
    assert "1 of 4 records are unusable" in fail(*check)
    out = capsys.readouterr().out
    assert f"record 1 ({tmp_path}/train/a/2.jpg): OSError: " in out
    assert "4 records, 1 of them unusable; 2 classes, the smallest of 1" in out
    assert "no folder" in fail(*check[:-1], "test")


def test_checking_annotations_names_what_is_wrong(tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    pairs = {str(i): make_pair(20, 30, i, classes=5) for i in range(3)}
    image, label = np.zeros((30, 9, 3), np.uint8), np.full((30, 9), 5, np.uint8)
    pairs["3"] = {"image": encode(image, "JPEG"), "annotation": encode(label)}
    write_tree(tmp_path, "train", pairs)
    check = ["check", "--name", "folder", "--data-dir", tmp_path, "--split", "train"]
    check = [str(argument) for argument in check]
    prepare.main([*check, "--zero-label", "ignored"])
    summary = (
        "4 records, 0 of them unusable; 5 classes, the rarest in 3 images, the most "
        "frequent in 4.\n"
    )
    assert summary in capsys.readouterr().out
    # As classes of their own, 0 to 5 are one too many.
    assert "4 of 4 records are" in fail(*check, "--zero-label", "class")
    out = capsys.readouterr().out
    assert "record 3 " in out
    assert out.count("its annotation has pixels of 5, but the last class is 4") == 4

    (tmp_path / "annotations/train/1.png").write_bytes(b"torn")
    small = encode(np.ones((19, 30), np.uint8))
    (tmp_path / "annotations/train/2.png").write_bytes(small)
    assert "2 of 4 records are" in fail(*check, "--zero-label", "ignored")
    out = capsys.readouterr().out
    assert f"record 1 ({tmp_path}/images/train/1.jpg): its annotation is no " in out
    assert "the image has 30x20 pixels, but its annotation 30x19" in out
    # Without the option, a data set with labels is looked for.
    assert "no folder" in fail(*check)


def test_digits_are_written_as_files(tmp_path, capsys):
    options = ["--classes", "5", "7", "--per-class", "3"]
    prepare.main(["digits", str(tmp_path), *options])
    said = capsys.readouterr().out
    assert re.search(r"Prepared \d{2} of val, 6 of train\.", said)
    train = open_source("folder", "train", str(tmp_path))
    assert train.class_names == ["5", "7"]
    assert [train[i]["label"] for i in range(len(train))] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(SystemExit, match="--per-class is -1 but must be 0 or more"):
        prepare.main(["digits", str(tmp_path), "--per-class", "-1"])
