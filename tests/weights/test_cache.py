"""Published files are downloaded once, resumed, recorded and checked."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from litv2_jax.settings import ConfigError
from litv2_jax.weights import __main__ as command
from litv2_jax.weights.cache import RELEASES, address_of, cache_folder, fetch
from litv2_jax.weights.download import DownloadError
from litv2_jax.weights.published import PUBLISHED, PublishedFile
from tests.releases import releases

__all__ = ["releases"]
BLOB = PublishedFile("v9", "blob.pth", "litv2_s", {})


@pytest.fixture
def blob(releases):
    """300,000 bytes that the server has."""
    data = bytes(range(256)) * 1200
    releases.files["/v9/blob.pth"] = data
    return data


def fetch_blob() -> bytes:
    return fetch(BLOB).read_bytes()


def test_a_file_is_downloaded_once_and_recorded(releases, blob):
    assert fetch_blob() == blob == fetch_blob()
    assert releases.requests == [("/v9/blob.pth", None)]
    record = json.loads((cache_folder() / "blob.pth.json").read_text())
    assert record["size"] == len(blob)
    assert record["sha256"] == hashlib.sha256(blob).hexdigest()
    assert record["source"] == f"{releases.address}/v9/blob.pth"
    names = {path.name for path in cache_folder().iterdir()}
    assert names == {"blob.pth", "blob.pth.json", "blob.pth.lock"}


def test_a_broken_connection_is_resumed(releases, blob):
    releases.breaks = [100_000]
    assert fetch_blob() == blob
    ranges = [wanted for _, wanted in releases.requests]
    assert ranges == [None, "bytes=100000-"]


def test_a_later_start_resumes(releases, blob):
    # Nothing came in the last three.
    releases.breaks = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError, match="after 100,000 bytes .*, and it resumes"):
        fetch_blob()
    assert not (cache_folder() / "blob.pth").exists()
    assert fetch_blob() == blob
    assert releases.requests[-1][1] == "bytes=100000-"


@pytest.mark.parametrize("has_tags", [True, False])
def test_parts_of_two_files_are_not_joined(releases, blob, has_tags):
    releases.has_tags = has_tags
    releases.breaks = [100_000, 0, 0, 0] if has_tags else [100_000] * 4
    with pytest.raises(DownloadError):
        fetch_blob()
    releases.files["/v9/blob.pth"] = other = blob[::-1]
    assert fetch_blob() == other
    # Without tags, the server is never asked for a part.
    assert (releases.requests[-1][1] is not None) == has_tags


def test_a_part_that_was_complete_is_downloaded_again(releases, blob):
    fetch_blob()
    folder = cache_folder()
    (folder / "blob.pth").rename(folder / "blob.pth.part")
    tag = f'"{hashlib.md5(blob).hexdigest()}"'
    (folder / "blob.pth.part.tag").write_text(tag)
    assert fetch_blob() == blob
    ranges = [wanted for _, wanted in releases.requests]
    assert ranges == [None, "bytes=307200-", None]


def test_another_file_the_second_time_is_refused(releases, blob):
    fetch(BLOB).unlink()
    releases.files["/v9/blob.pth"] = blob[::-1]
    with pytest.raises(ConfigError, match="is another file than that recorded"):
        fetch(BLOB)
    assert not (cache_folder() / "blob.pth").exists()
    (cache_folder() / "blob.pth.json").unlink()
    assert fetch_blob() == blob[::-1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "it has 307,199 bytes instead of 307,200"),
        (lambda data: data[:-1] + b"x", "its sha256 is .* instead of"),
    ],
)
def test_a_file_that_changed_is_refused(releases, blob, change, reason):
    fetch(BLOB).write_bytes(change(blob))
    with pytest.raises(ConfigError, match=f"{reason}.*: delete it"):
        fetch(BLOB)
    (cache_folder() / "blob.pth").unlink()
    assert fetch_blob() == blob


def test_a_file_copied_by_hand_is_taken_and_recorded(releases, blob):
    releases.files.clear()
    cache_folder().mkdir()
    (cache_folder() / "blob.pth").write_bytes(blob)
    assert fetch_blob() == blob
    assert releases.requests == []
    (cache_folder() / "blob.pth").write_bytes(blob + b"x")
    with pytest.raises(ConfigError, match="is not the file that was recorded"):
        fetch_blob()


def test_a_damaged_record_is_named(releases, blob):
    fetch(BLOB)
    (cache_folder() / "blob.pth.json").write_text("{")
    with pytest.raises(ConfigError, match="blob.pth.json is damaged"):
        fetch(BLOB)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": {}}, "the server answers 404 Not Found. Or copy the file to .*blob"),
        ({"statuses": [403]}, "the server answers 403 Forbidden"),
        ({"statuses": [503] * 3}, r"broke off after 0 bytes \(503 Service"),
        ({"content_type": "text/html"}, "is a web page, not a file"),
    ],
)
def test_what_the_server_lacks_is_a_sentence(releases, blob, settings, message):
    for name, value in settings.items():
        setattr(releases, name, value)
    with pytest.raises(DownloadError, match=message):
        fetch(BLOB)
    assert not (cache_folder() / "blob.pth").exists()


def test_no_network_is_a_sentence(releases, monkeypatch):
    monkeypatch.setenv("LITV2_JAX_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be reached .*is there a network"):
        fetch(BLOB)


def test_a_full_disk_is_a_sentence(releases, blob, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"blob.pth needs 0 MB more, but .* 0 MB"):
        fetch(BLOB)


def test_a_folder_that_cannot_be_made_is_a_sentence(releases, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LITV2_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="set LITV2_JAX_CACHE to a folder"):
        fetch(BLOB)


def test_a_proxy_is_asked(releases, blob, monkeypatch):
    monkeypatch.setenv("http_proxy", releases.address)
    monkeypatch.setenv("LITV2_JAX_MIRROR", "http://weights.example/")
    assert fetch_blob() == blob
    assert releases.requests == [("http://weights.example/v9/blob.pth", None)]


def test_addresses(monkeypatch):
    monkeypatch.delenv("LITV2_JAX_MIRROR", raising=False)
    file = PUBLISHED["alpha_0.2"]
    assert address_of(file) == f"{RELEASES}/v1.1/alpha_0.2.pth"
    assert RELEASES == "https://github.com/ziplab/LITv2/releases/download"
    assert address_of(file, "http://a/b/") == "http://a/b/v1.1/alpha_0.2.pth"
    with pytest.raises(ConfigError, match="'/disk' but must begin with https://"):
        address_of(file, "/disk")


def test_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("LITV2_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "litv2_jax" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "litv2_jax" / "weights"


def test_of_several_at_once_one_downloads(releases, blob):
    """The lock belongs to an open file, so that threads are like processes."""
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch_blob(), range(4))) == [blob] * 4
    assert len(releases.requests) == 1


def test_the_command_lists_and_fetches(releases, capsys):
    command.main(["fetch", "nano"])
    assert f"{cache_folder() / 'nano.pth'}: 1,263,009 bytes, sha256 " in (
        capsys.readouterr().out
    )
    command.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line}
    assert rows["nano"] == "litv2_nano top-1 12.5 1 MB"
    assert rows["mask_rcnn_litv2_s_fpn_1x_coco_ws_4"] == (
        "mask_rcnn_litv2_s_window4 box AP 44.7, mask AP 40.7"
    )
    assert lines[-1] == f"Fetched files are kept in {cache_folder()}."


def test_the_command_goes_on_after_a_failure(releases, capsys):
    with pytest.raises(SystemExit, match="1 of 2 not fetched"):
        command.main(["fetch", "litv2_m", "nano"])
    output = capsys.readouterr()
    assert "litv2_m.pth cannot be downloaded: the server answers 404" in output.err
    assert "nano.pth: 1,263,009 bytes" in output.out
    with pytest.raises(SystemExit, match="Did you mean published:litv2_s?"):
        command.main(["fetch", "litv2_s.pth"])
    with pytest.raises(SystemExit, match="must begin with https://"):
        command.main(["fetch", "all", "--mirror", "disk"])


def test_a_folder_for_reading_alone_is_used(releases, blob, monkeypatch, caplog):
    cache_folder().mkdir()
    (cache_folder() / "blob.pth").write_bytes(blob)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert fetch_blob() == blob
    assert "is taken as it is: its folder is read-only" in caplog.text
    assert [path.name for path in cache_folder().iterdir()] == ["blob.pth"]
