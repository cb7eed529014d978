"""The folder of downloaded weights; each file has a record of its size and digest.

The original publishes no checksums: the first download is recorded, and whatever is
read or downloaded later must be the same.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litv2_jax.paths import expand_path, write_atomically
from litv2_jax.settings import ConfigError
from litv2_jax.weights.download import DownloadError, download
from litv2_jax.weights.published import PublishedFile

RELEASES = "https://github.com/ziplab/LITv2/releases/download"


def cache_folder() -> Path:
    """Returns the folder, which need not exist.

    LITV2_JAX_CACHE, or `litv2_jax/weights` in the user's cache folder, XDG_CACHE_HOME
    or ~/.cache.
    """
    if given := os.environ.get("LITV2_JAX_CACHE"):
        return expand_path(given)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_path(base) / "litv2_jax" / "weights"


def find_cached(file: PublishedFile) -> Path | None:
    """Returns the path of a published file if it is there, unchecked."""
    path = cache_folder() / file.file
    return path if path.is_file() else None


def address_of(file: PublishedFile, mirror: str = "") -> str:
    """Returns where a published file is.

    Args:
        file: What to download.
        mirror: Address that stands for the original's, `.../v1.0/litv2_s.pth` being
            below; by default LITV2_JAX_MIRROR, if that is set.

    Raises:
        ConfigError: If the mirror is no address.
    """
    base = mirror or os.environ.get("LITV2_JAX_MIRROR") or RELEASES
    if not base.startswith(("https://", "http://")):
        raise ConfigError(
            f"The mirror is {base!r} but must begin with https:// or http://; to take "
            f"files of a disk, copy them to {cache_folder()}."
        )
    return f"{base.rstrip('/')}/{file.release}/{file.file}"


def fetch(file: PublishedFile, *, mirror: str = "") -> Path:
    """Returns the path of a published file, which is downloaded if it is not there.

    Of several processes one downloads, and the others wait for it.

    Args:
        file: What to fetch.
        mirror: As for `address_of`.

    Raises:
        DownloadError: If it cannot be downloaded.
        ConfigError: If it is not what was recorded, or the folder cannot be written to.
    """
    path = cache_folder() / file.file
    if path.is_file() and _record_of(path).is_file():
        # Without the lock, which a folder that is shared for reading does not allow.
        _check(path, read_record(path))
    elif path.is_file() and not os.access(path.parent, os.W_OK):
        logging.warning("%s is taken as it is: its folder is read-only.", path)
    else:
        address = address_of(file, mirror)
        with _locked(path):
            _complete(path, address)
    return path


def _complete(path: Path, address: str) -> None:
    """Downloads and records what is missing of a file and its record."""
    part = path.with_name(f"{path.name}.part")
    record = read_record(path)
    if path.is_file():
        found = record or _describe(path, "copied by hand")
    else:
        logging.warning("Downloading %s to %s.", address, path.parent)
        try:
            download(address, part)
        except DownloadError as error:
            raise DownloadError(
                f"{error} Or copy the file to {path}, or name a mirror by "
                "LITV2_JAX_MIRROR."
            ) from None
        found = _describe(part, address)
        if record and record["sha256"] != found["sha256"]:
            part.unlink()
            raise ConfigError(
                f"{address} is another file than that recorded in {_record_of(path)}: "
                f"its sha256 is {found['sha256']}, not {record['sha256']}. If it was "
                "replaced on purpose, delete the record."
            )
    if not record:
        write_atomically(_record_of(path), json.dumps(found, indent=2) + "\n")
    if part.is_file() and not path.is_file():
        # Last: a file in its place is complete and recorded.
        os.replace(part, path)
    if record:
        _check(path, record)


def _check(path: Path, record: dict[str, Any]) -> None:
    """Raises ConfigError if a file is not the recorded one."""
    size = path.stat().st_size
    if size != record["size"]:
        reason = f"it has {size:,} bytes instead of {record['size']:,}"
    elif (digest := _digest(path)) != record["sha256"]:
        reason = f"its sha256 is {digest} instead of {record['sha256']}"
    else:
        return
    raise ConfigError(
        f"{path} is not the file that was recorded in {_record_of(path).name} "
        f"({reason}): delete it, and it is downloaded again; if you replaced it on "
        "purpose, delete the record."
    )


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_record(path: Path) -> dict[str, Any]:
    """Returns `size`, `sha256`, `source` and `date` of a file; empty if unrecorded.

    Raises:
        ConfigError: If the record is damaged.
    """
    record = _record_of(path)
    if not record.is_file():
        return {}
    try:
        values = json.loads(record.read_bytes())
        return {"size": int(values["size"]), "sha256": str(values["sha256"])} | values
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{record} is damaged ({type(error).__name__}: {error}): delete it, and "
            f"{path.name} is recorded again."
        ) from None


def find_digest(path: Path) -> str:
    """Returns the SHA-256 of a file from `fetch`, which has compared it."""
    return read_record(path).get("sha256") or _digest(path)


def _describe(path: Path, source: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    size = path.stat().st_size
    return {"size": size, "sha256": _digest(path), "source": source, "date": now}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from downloading a file while the block runs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("a")
    except OSError as error:
        raise ConfigError(
            f"Weights cannot be kept in {path.parent} ({error.strerror}): set "
            "LITV2_JAX_CACHE to a folder that can be written to."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("Waiting for another process that fetches %s.", path.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logging.warning(
                "%s cannot be locked (%s): see that no other process fetches it.",
                path,
                error.strerror,
            )
        yield
