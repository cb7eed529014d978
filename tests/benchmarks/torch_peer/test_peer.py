import ast
import importlib.util
import mmap
import sys
from pathlib import Path

import pytest

from benchmarks.memory import PeakMemory
from benchmarks.torch_peer.peer import ROOT, TorchPeer

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux counts memory so"
)
JOB = {
    "variant": "litv2_s",
    "image_size": 64,
    "batch_size": 1,
    "dtype": "float32",
    "work": "forward",
    "configuration": "eager",
    "device": "cpu",
}
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def peer():
    with TorchPeer() as peer:
        yield peer


def fake_python(folder, script):
    """Writes a program that does not care which module it is told to run."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def start(python):
    with TorchPeer(python):
        pass


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1",
            "has no PyTorch: pip install torch, or name a Python .* --torch-python",
        ),
        ("echo 'No space left.' >&2; exit 3", "ended with code 3: No space left"),
        ("kill -9 $$", "code -9: it said nothing; .* use a smaller batch"),
    ],
)
def test_a_worker_that_ends_says_what_to_do(tmp_path, script, message):
    with pytest.raises(RuntimeError, match=message):
        start(fake_python(tmp_path, script))


def test_a_python_that_is_not_there_is_named(tmp_path):
    missing = str(tmp_path / "python9")
    with pytest.raises(RuntimeError, match=r"python9 cannot be started .*--torch-pyth"):
        start(missing)


def test_much_talk_on_stderr_stops_nobody(tmp_path):
    # More than the 64 KiB that a pipe holds.
    talk = f"{sys.executable} -c \"print('x' * 10**6)\" >&2"
    reply = 'while read line; do echo \'{"torch": "9"}\'; done'
    with TorchPeer(fake_python(tmp_path, f"{talk}\n{reply}")) as peer:
        assert peer.describe() == {"torch": "9"}


@needs_torch
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"configuration": "channels_last"},
        {"work": "train", "dtype": "bfloat16", "configuration": "channels_last"},
    ],
)
def test_a_job_is_timed(peer, changes):
    prepared = peer.prepare("job", {**JOB, **changes})
    assert prepared["num_parameters"] == 27_844_000
    assert prepared["prepare_seconds"] > 0
    # Parameters alone; training also holds gradients and two moments of each.
    arrays = 4 if changes.get("work") == "train" else 1
    parameters = 4 * 27_844_000
    assert arrays < prepared["peak_bytes"] / parameters < 2 * arrays + 1
    times = peer.time("job", calls=2)
    assert 0 < times["seconds"] < 60
    assert times["cpu_seconds"] > 0
    with pytest.raises(RuntimeError, match="KeyError: 'none'"):
        peer.time("none")


@needs_torch
def test_describes_what_it_runs_on(peer):
    description = peer.describe()
    assert set(description) - {"timm"} == {"torch", "device", "threads"}
    assert description["threads"] >= 1


@needs_torch
def test_a_model_is_counted_without_being_run(peer):
    found = peer.count("litv2_s", 224)
    assert found["num_parameters"] == 27_844_000
    # Sampling, norms and activations are not counted.
    assert found["multiply_adds"] == pytest.approx(3.7e9, rel=0.02)


@needs_torch
@pytest.mark.parametrize("key", ["configuration", "variant", "dtype", "work"])
def test_unknown_settings_name_the_known_ones_and_the_worker_goes_on(peer, key):
    with pytest.raises(RuntimeError, match=f"{key}='no_such' is unknown; use "):
        peer.prepare("job", {**JOB, key: "no_such"})
    assert peer.describe()["torch"]


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("work", ["forward", "train"])
def test_compiled_jobs_run(peer, work):
    peer.prepare("job", {**JOB, "work": work, "configuration": "compile"})
    assert peer.time("job")["seconds"] > 0


@needs_torch
def test_every_job_computes_something_else():
    from benchmarks.torch_peer.worker import Work

    work = Work({**JOB, "work": "train"})
    assert work.model.training
    before = work.model.head.weight.clone()
    work()
    assert (work.model.head.weight != before).any()
    work = Work({**JOB, "configuration": "channels_last", "dtype": "bfloat16"})
    assert not work.model.training
    assert work.images.stride()[1] == 1
    assert work._predict().dtype.itemsize == 2


@needs_proc
def test_memory_that_is_touched_counts():
    with PeakMemory() as memory:
        hold(200 * MEGABYTE)
    assert 180 < memory.bytes / MEGABYTE < 260


@needs_proc
def test_each_measurement_starts_anew():
    with PeakMemory():
        hold(200 * MEGABYTE)
    with PeakMemory() as memory:
        hold(50 * MEGABYTE)
    assert 45 < memory.bytes / MEGABYTE < 110


@needs_proc
def test_what_came_before_the_reset_is_forgotten():
    with PeakMemory() as memory:
        hold(200 * MEGABYTE)
        memory.reset_peak()
        hold(50 * MEGABYTE)
    assert 45 < memory.bytes / MEGABYTE < 110


def test_without_proc_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.memory._CLEAR_REFS", tmp_path / "none" / "none")
    with PeakMemory() as memory:
        pass
    assert memory.bytes is None


def hold(size):
    """Fills memory that the system takes back at once."""
    with mmap.mmap(-1, size) as pages:
        for start in range(0, size, mmap.PAGESIZE):
            pages[start] = 1


def test_the_worker_needs_nothing_of_the_project():
    """Its Python has torch, and maybe not numpy."""
    for name in (
        "torch_peer/worker",
        "torch_peer/models",
        "torch_peer/litv2",
        "torch_peer/merging",
        "torch_peer/peer",
        "memory",
    ):
        text = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert not {"jax", "numpy", "litv2_jax", "results"} & imported(text), name


def imported(text):
    nodes = [*ast.walk(ast.parse(text))]
    names = {x.module for x in nodes if isinstance(x, ast.ImportFrom) and x.module}
    found = [x for x in nodes if isinstance(x, ast.Import | ast.ImportFrom)]
    names |= {alias.name for node in found for alias in node.names}
    return {name.split(".")[0] for name in names}
