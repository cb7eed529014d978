"""A start harms nothing: not a run of others, not its settings, not its checkpoints."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from litv2_jax import tasks
from litv2_jax.checkpoints import list_steps
from litv2_jax.settings import ConfigError
from litv2_jax.training import workdir as workdir_module
from litv2_jax.training.devices import Devices
from litv2_jax.training.loop import fit
from litv2_jax.training.workdir import RunConfig, check_place, locked
from tests.reference import mark_slow
from tests.training.test_loop import InterruptedError, Wrapper, read_rows, stop_before
from tests.training.toy import Toy, toy_run

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys
from pathlib import Path
from litv2_jax.training.workdir import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def fit_on_one(task, run, workdir, **options):
    return fit(task, run, workdir, Devices(jax.devices()[:1]), **options)


def test_a_workdir_in_use_is_refused_until_its_process_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match="is in use by another start") as error:
        fit_on_one(Toy(), toy_run(), tmp_path)
    assert f"process {process.pid} on " in str(error.value)
    assert ", since 20" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    process.kill()
    process.wait()
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
        with pytest.raises(ConfigError, match="is in use"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdir_module.fcntl, "flock", flock)
    with locked(tmp_path):
        assert "cannot be locked (No locks available)" in caplog.text


@pytest.mark.parametrize("child", [".", "below", "far/below"])
def test_a_workdir_that_can_be_none_is_named(tmp_path, child):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be a workdir \(.*file is a file\)"):
        check_place(tmp_path / "file" / child)
    with (
        pytest.raises(ConfigError, match="cannot be a workdir"),
        locked(tmp_path / "file" / child),
    ):
        pass
    check_place(tmp_path / "new" / child)
    assert not (tmp_path / "new").exists()


SETTINGS = {"seed": 1, "model": {"name": "x", "depths": (1, 2)}, "weights": ""}


def test_settings_are_written_and_compared(tmp_path):
    RunConfig(SETTINGS, tmp_path, may_change=False).write()
    before = (tmp_path / "config.json").read_bytes()
    assert json.loads(before)["model"]["depths"] == [1, 2]
    RunConfig(SETTINGS, tmp_path, may_change=False)

    changed = {**SETTINGS, "seed": 2, "model": {"name": "y"}, "weights": "w"}
    with pytest.raises(ConfigError) as error:
        RunConfig(changed, tmp_path, may_change=False)
    for text in (
        "config.seed was 1, is 2",
        "config.model.name was 'x', is 'y'",
        "config.model.depths was [1, 2], is absent",
        "config.weights was '', is 'w'",
        "add --change-config",
    ):
        assert text in str(error.value)
    changing = RunConfig(changed, tmp_path, may_change=True)
    assert (tmp_path / "config.json").read_bytes() == before
    changing.write()
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize("content", [b"", b'{"seed": 1', b"[1, 2]", b"\xff\xfe", b"3"])
def test_damaged_settings_are_named_and_can_be_replaced(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config.json is damaged \(.+\), so that"):
        RunConfig(SETTINGS, tmp_path, may_change=False)
    assert path.read_bytes() == content
    RunConfig(SETTINGS, tmp_path, may_change=True).write()
    RunConfig(SETTINGS, tmp_path, may_change=False)


def test_settings_are_kept_only_once_a_step_has_shown_that_they_work(tmp_path):
    """However a start fails before, the settings of the run stay what they were."""
    calls = []

    def fail(*_):
        raise InterruptedError

    def on_begin():
        calls.append(len(list_steps(tmp_path / "checkpoints")))

    for task, run, error in (
        (Toy(), toy_run(weights=str(tmp_path / "absent")), ConfigError),
        (Wrapper(Toy(), train_batches=fail), toy_run(), InterruptedError),
        (Wrapper(Toy(), loss=fail), toy_run(), InterruptedError),
        (stop_before(Toy(), 1), toy_run(), InterruptedError),
    ):
        with pytest.raises(error):
            fit_on_one(task, run, tmp_path, on_begin=on_begin)
        assert not calls
    fit_on_one(Toy(), toy_run(epochs=1.0), tmp_path, on_begin=on_begin)
    assert calls == [0]
    # A run that is finished takes no step, and settings that say so are kept.
    fit_on_one(Toy(), toy_run(epochs=1.0), tmp_path, on_begin=on_begin)
    assert calls == [0, 1]


def test_absent_weights_leave_no_workdir(tmp_path):
    (tmp_path / "file").write_text("no checkpoint")
    for weights, reason in (
        ("absent", "name the workdir of a run"),
        ("file", "is neither a PyTorch nor a safetensors file"),
    ):
        run = toy_run(weights=str(tmp_path / weights))
        with pytest.raises(ValueError, match=f"{weights}.*{reason}"):
            fit_on_one(Toy(), run, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def lose(checkpoints: Path, how: str) -> None:
    shutil.rmtree(checkpoints)
    if how == "emptied":
        checkpoints.mkdir()
    elif how == "a file":
        checkpoints.touch()


@pytest.mark.parametrize("how", ["gone", "emptied", "a file"])
def test_a_run_never_begins_from_scratch_where_there_were_steps(tmp_path, how):
    with pytest.raises(InterruptedError):
        fit_on_one(stop_before(Toy(), 6), toy_run(), tmp_path)
    assert list_steps(tmp_path / "checkpoints") == [4]
    lose(tmp_path / "checkpoints", how)
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="There is no checkpoint in .* up to step 4"):
        fit_on_one(Toy(), toy_run(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    for _ in range(2):
        with pytest.raises(InterruptedError):
            fit_on_one(stop_before(Toy(), 4), toy_run(), tmp_path)
        assert [row["step"] for row in read_rows(tmp_path, "train")] == [1, 2]
        assert (tmp_path / "no_checkpoint_yet").exists()
    fit_on_one(Toy(), toy_run(epochs=1.0), tmp_path)
    assert not (tmp_path / "no_checkpoint_yet").exists()


DAMAGED = ['{"step": 2, "ki', '{"kind": "train"}', "[1]", "\xff", '{"step": "x"}']


def stop_and_read_log(workdir):
    """Returns the lines of the log of a run that was stopped after step 5."""
    with pytest.raises(InterruptedError):
        fit_on_one(stop_before(Toy(), 6), toy_run(), workdir)
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_a_damaged_line_of_the_log_is_named(tmp_path):
    lines = stop_and_read_log(tmp_path)
    for line in DAMAGED:
        damaged = "\n".join([*lines[:1], line, *lines[2:]])
        (tmp_path / "metrics.jsonl").write_bytes(damaged.encode("latin-1"))
        with pytest.raises(ConfigError, match="Line 2 of .*metrics.jsonl is damaged"):
            fit_on_one(Toy(), toy_run(), tmp_path)


@pytest.mark.parametrize("line", mark_slow(DAMAGED, lambda line: line != DAMAGED[0]))
def test_a_damaged_last_line_of_the_log_is_dropped(tmp_path, line):
    lines = stop_and_read_log(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("\n".join([*lines, line]).encode("latin-1"))
    fit_on_one(Toy(), toy_run(epochs=1.5), tmp_path)
    assert [row["step"] for row in read_rows(tmp_path, "train")] == [*range(1, 7)]


def test_a_run_with_other_images_in_a_step_is_refused(tmp_path):
    one = Devices(jax.devices()[:1])
    fit(Toy(), toy_run(epochs=1.0), tmp_path, one)
    for task, run, message in (
        (Toy(batch_size=8), toy_run(batch_size=8), "config.batch_size was 16"),
        (Toy(train_size=72), toy_run(), "number of training images was 70 .* is 72"),
        (Toy(), toy_run(epochs=0.5, **{"optimizer.warmup_epochs": 0.0}), "at step 4, "),
    ):
        before = (tmp_path / "metrics.jsonl").read_bytes()
        with pytest.raises(ConfigError, match=message):
            fit(task, run, tmp_path, one)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
    # Parts of a step and a longer run leave what a step stands for.
    run = toy_run(epochs=1.5, accumulation_steps=2)
    fit(Wrapper(Toy()), run, tmp_path, one)
    assert list_steps(tmp_path / "checkpoints")[-1] == 6


def test_settings_that_recipes_have_since_had_their_defaults(tmp_path):
    RunConfig(SETTINGS, tmp_path, may_change=False).write()
    defaults = {"ema_decay": 0.0} | tasks.DEFAULTS
    new = {**SETTINGS, "ema_decay": 0.0, "eval": {"tta": "none"}}
    new["augment"] = {"randaugment_on": "device"}
    RunConfig(new, tmp_path, may_change=False, defaults=defaults)
    with pytest.raises(ConfigError, match="config.ema_decay was 0.0, is 0.9"):
        RunConfig(
            {**new, "ema_decay": 0.9}, tmp_path, may_change=False, defaults=defaults
        )
