from pathlib import Path

import pytest

from litv2_jax.paths import expand_path


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/runs/a", "/home/me/runs/a"),
        ("~", "/home/me"),
        ("runs/~/a", "/data/here/runs/~/a"),
        ("a.pth", "/data/here/a.pth"),
        ("/data/a.pth", "/data/a.pth"),
        ("~nobody.of.this.name/a", "/data/here/~nobody.of.this.name/a"),
    ],
)
def test_paths_become_absolute(monkeypatch, text, expected, kind):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("os.getcwd", lambda: "/data/here")
    assert expand_path(kind(text)) == Path(expected)
