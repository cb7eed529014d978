"""Downloads a file, and resumes where an earlier download broke off."""

import contextlib
import errno
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

# Connections that may break in a row without a byte received.
_MAX_FRUITLESS = 3
_SECONDS_BETWEEN = 1.0
_TIMEOUT = 60.0  # Seconds without an answer.
_BLOCK = 2**16  # Bytes; what a broken connection loses at most.


class DownloadError(OSError):
    """A file that could not be downloaded."""


class _BrokenError(Exception):
    """A connection that ended early; what was received is kept."""


def download(address: str, part: Path) -> None:
    """Downloads a file.

    Proxies are those of the environment: `https_proxy`, `no_proxy` and so on.

    Args:
        address: Where it is, by HTTP or HTTPS.
        part: File to write. If it exists, it holds the beginning from an earlier
            download; the rest is appended if the server says, by the tag beside it,
            that its file is still the same.

    Raises:
        DownloadError: If there is no such file, no way to it or no room for it, or the
            connection keeps breaking; what was received stays in `part`.
    """
    num_fruitless = 0
    while True:
        before = _size(part)
        try:
            _receive(address, part)
        except _BrokenError as error:
            num_fruitless = 0 if _size(part) > before else num_fruitless + 1
            if num_fruitless == _MAX_FRUITLESS:
                raise DownloadError(
                    f"The download of {address} broke off after {_size(part):,} bytes "
                    f"({error}): try again later, and it resumes there."
                ) from None
            time.sleep(_SECONDS_BETWEEN)
        else:
            _tag_file(part).unlink(missing_ok=True)
            return


def _receive(address: str, part: Path) -> None:
    """Appends to a file what it lacks, or writes it anew if the server's is another."""
    with _explain(address), _open(address, part) as response:
        start = _find_start(response, part)
        if not start:
            tag = response.headers["ETag"] or response.headers["Last-Modified"] or ""
            _tag_file(part).write_text(tag)
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        _check_room(part, int(length or 0))
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, total, address.rpartition("/")[2])
    if total is not None and _size(part) < total:
        raise _BrokenError(f"{_size(part):,} of {total:,} bytes came")


def _open(address: str, part: Path) -> Any:
    """Returns the response of the server, asked for what a file lacks."""
    headers = {"User-Agent": "litv2_jax", "Accept-Encoding": "identity"}
    tag = _read_tag(part)
    # Without a tag, or with a weak one, the parts of two files could be joined.
    if _size(part) and tag and not tag.startswith("W/"):
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": tag}
    request = urllib.request.Request(address, headers=headers)
    try:
        # `urlopen` would keep the proxies of its first call.
        opener = urllib.request.build_opener()
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()
        raise _BrokenError("the server has nothing after what was received") from None
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        response.close()
        raise DownloadError(
            f"{address} is a web page, not a file: perhaps a login or a proxy answers "
            "in its place; open the address in a browser to see."
        )
    return response


def _find_start(response: Any, part: Path) -> int:
    """Returns the number of bytes that a response continues after, 0 for none."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
    if not match or int(match[1]) != _size(part):
        part.unlink()
        raise _BrokenError("the server sent another part than was asked for")
    return int(match[1])


def _copy(
    response: Any, file: BinaryIO, start: int, total: int | None, name: str
) -> None:
    """Writes the body of a response, with a bar in a terminal."""
    bar = {"unit": "B", "unit_scale": True, "unit_divisor": 1000, "disable": None}
    with tqdm(desc=name, total=total, initial=start, **bar) as progress:
        while block := response.read(_BLOCK):
            file.write(block)
            progress.update(len(block))


@contextlib.contextmanager
def _explain(address: str) -> Iterator[None]:
    """Turns errors of the network and of the disk into sentences."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code >= http.client.INTERNAL_SERVER_ERROR:
            raise _BrokenError(f"{error.code} {error.reason}") from None
        raise DownloadError(
            f"{address} cannot be downloaded: the server answers {error.code} "
            f"{error.reason}."
        ) from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from None
    except urllib.error.URLError as error:
        raise DownloadError(
            f"{address} cannot be reached ({error.reason}): is there a network, and is "
            "https_proxy set if it needs a proxy?"
        ) from None
    except DownloadError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(f"{address} does not fit on the disk: {error}.") from None


def _check_room(part: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if num_bytes > free:
        raise DownloadError(
            f"{part.name.removesuffix('.part')} needs {num_bytes / 1e6:,.0f} MB more, "
            f"but {part.parent} has {free / 1e6:,.0f} MB free: make room, or set "
            "LITV2_JAX_CACHE to another folder."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: Path) -> str:
    path = _tag_file(part)
    return path.read_text() if path.exists() else ""
