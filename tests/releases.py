"""A server on loopback that stands for the original's releases."""

import contextlib
import hashlib
import http.server
import re
import threading

import pytest

from litv2_jax.models.backbone import BackboneConfig
from litv2_jax.models.classifier import ClassifierConfig
from litv2_jax.models.families import CLASSIFIER
from litv2_jax.weights import download
from litv2_jax.weights.published import PUBLISHED, PublishedFile
from tests.reference import GOLDEN

# Of tests/golden/litv2_tiny_checkpoint.pth.
NANO = ClassifierConfig(
    BackboneConfig(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 4), alpha=0.5),
    num_classes=10,
)
NANO_FILE = PublishedFile("v9", "nano.pth", "litv2_nano", {"top1": 12.5})


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, and ranges of them.

    Attributes:
        files: What to serve.
        statuses: Answers with an error instead, one for each request to come.
        breaks: After how many bytes to close the connection, for the requests to come.
        content_type: Of all files.
        has_tags: Whether files have an ETag.
        requests: Path and Range header of each request so far.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: list[int] = []
        self.breaks: list[int] = []
        self.content_type = "application/octet-stream"
        self.has_tags = True
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        # A proxy is asked for a complete address.
        path = re.sub(r"^http://[^/]*", "", self.path)
        wanted = self.headers["Range"]
        self.server.requests.append((self.path, wanted))
        if self.server.statuses:
            return self.send_error(self.server.statuses.pop(0))
        if path not in self.server.files:
            return self.send_error(404)
        data = self.server.files[path]
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        start = int(wanted[6:-1]) if wanted and self.headers["If-Range"] == tag else 0
        if start and start >= len(data):
            return self.send_error(416)
        self._send(data, start, tag)

    def _send(self, data: bytes, start: int, tag: str) -> None:
        self.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send_header("Content-Range", span)
        if self.server.has_tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + self.server.breaks.pop(0) if self.server.breaks else None
        self.wfile.write(data[start:end])


@contextlib.contextmanager
def serve():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """A server that has `nano`, a small model that was published, and nothing else."""
    monkeypatch.setitem(CLASSIFIER.configs, "litv2_nano", NANO)
    monkeypatch.setitem(PUBLISHED, "nano", NANO_FILE)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_SECONDS_BETWEEN", 0.0)
    with serve() as server:
        path = GOLDEN / "litv2_tiny_checkpoint.pth"
        server.files["/v9/nano.pth"] = path.read_bytes()
        monkeypatch.setenv("LITV2_JAX_MIRROR", server.address)
        monkeypatch.setenv("LITV2_JAX_CACHE", str(tmp_path / "cache"))
        yield server
