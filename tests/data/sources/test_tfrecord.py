import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from litv2_jax.data.sources import tfrecord
from litv2_jax.data.sources.tfrecord import TfRecordFiles, find_records, masked_crc
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError
from tests.data.record_files import write_tfrecord

FIRST = [b"a" * 10, b"", b"ccc"]
SECOND = [bytes([i]) * i for i in range(200)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = tmp_path / "data"
    folder.mkdir()
    paths = [folder / f"set-train.tfrecord-{i:05}-of-00002" for i in range(2)]
    write_tfrecord(paths[0], FIRST)
    write_tfrecord(paths[1], SECOND)
    return paths


@pytest.fixture
def scans(monkeypatch):
    """Lists the files that were scanned."""
    scanned = []
    scan = tfrecord.scan

    def count(path):
        scanned.append(path.name[-8:])
        return scan(path)

    monkeypatch.setattr(tfrecord, "scan", count)
    return scanned


def test_checksums_are_crc32c():
    # The check value of the catalogue of CRCs, masked as TensorFlow's crc32c.h says.
    crc = 0xE3069283
    expected = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == expected


def test_records_are_read_at_random_from_parts_of_files(files):
    source = TfRecordFiles([(str(files[1]), 10, 5), (str(files[0]), 0, 3)])
    expected = SECOND[10:15] + FIRST
    order = [7, 0, 5, 6, 4, 3, 2, 1]
    assert [source[i] for i in order] == [expected[i] for i in order]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(len(copy))] == expected
    for index in (-1, 8):
        with pytest.raises(IndexError, match="among 8"):
            source[index]


def test_threads_that_open_a_file_at_once_share_it(files, monkeypatch):
    source = TfRecordFiles([(str(files[0]), 0, 3)])
    both_are_opening = threading.Barrier(2, timeout=10)

    def open_slowly(*arguments, **options):
        both_are_opening.wait()
        return open(*arguments, **options)

    monkeypatch.setattr(tfrecord, "open", open_slowly, raising=False)
    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(source._open, [0, 0])
    # Or one would be closed while the other thread reads from it.
    assert first is second
    assert source[2] == FIRST[2]


def test_records_are_looked_for_once(files, scans):
    first = find_records(files)
    assert sorted(scans) == ["of-00002", "of-00002"]
    assert (files[0].parent / "set-train.offsets.npz").exists()
    again = find_records(files)
    assert len(scans) == 2
    for path in map(str, files):
        np.testing.assert_array_equal(again[path], first[path])


@pytest.mark.parametrize("change", ["longer", "same size"])
def test_a_file_that_changed_is_looked_at_again(files, scans, change):
    find_records(files)
    longer = [*FIRST, b"d"] if change == "longer" else [b"", b"a" * 10, b"ccc"]
    time = files[0].stat().st_mtime_ns
    write_tfrecord(files[0], longer)
    later = time + (0 if change == "longer" else 1)
    os.utime(files[0], ns=(later, later))
    found = find_records(files)[str(files[0])]
    assert found[:, 1].tolist() == [len(record) for record in longer]
    assert len(scans) == 3


def test_an_index_that_is_damaged_is_made_anew(files, scans):
    find_records(files)
    index = files[0].parent / "set-train.offsets.npz"
    index.write_bytes(index.read_bytes()[:-60])
    assert len(find_records(files)[str(files[1])]) == 200
    assert len(scans) == 4


def test_where_the_folder_is_read_only_the_index_goes_to_the_caches(
    files, scans, tmp_path, monkeypatch
):
    replace = os.replace

    def refuse(source, target):
        if files[0].parent in target.parents:
            raise PermissionError("read-only")
        replace(source, target)

    # The user of the tests may be root, to whom nothing is read-only.
    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        find_records(files)
    assert len(scans) == 2
    assert {path.name for path in files[0].parent.iterdir()} == {p.name for p in files}
    assert len(list(tmp_path.glob("caches/litv2_jax/*/set-train.offsets.npz"))) == 1


def test_without_any_place_for_the_index_files_can_be_read(files, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    assert len(find_records(files)[str(files[1])]) == 200
    assert "will be made anew each time" in caplog.text


@pytest.mark.parametrize("length", [-1, -5, -13, 14, 5])
def test_a_file_that_is_cut_short_is_named(files, length):
    files[1].write_bytes(files[1].read_bytes()[:length])
    with pytest.raises(ConfigError, match="00001-of-00002 is cut short in the record"):
        find_records(files)


def test_a_file_that_ends_early_between_records_is_named(files):
    write_tfrecord(files[1], SECOND[:150])
    with pytest.raises(ConfigError, match="has 150 records, not the 200 or more"):
        TfRecordFiles([(str(files[1]), 0, 200)])


def test_other_files_are_named(files):
    files[1].write_bytes(b"this is not a file of records")
    with pytest.raises(ConfigError, match="is no TFRecord file, or is damaged at byte"):
        find_records(files)
    files[1].unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        find_records(files)


def test_a_file_that_shrinks_later_makes_its_records_unreadable(files):
    source = TfRecordFiles([(str(files[1]), 0, 200)])
    os.truncate(files[1], 500)
    assert source[3] == SECOND[3]
    with pytest.raises(UnreadableImageError, match="became shorter"):
        source[199]
