"""Trackers get what is logged; Weights & Biases is played by a module that notes it."""

import json
import sys

import jax
import pytest

from configs import demo
from litv2_jax.settings import ConfigError
from litv2_jax.training.log import Log
from litv2_jax.training.loop import fit
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.trackers import TRACKERS
from litv2_jax.training.workdir import RunConfig
from tests.training.test_loop import InterruptedError, stop_before
from tests.training.toy import Toy, toy_run

WANDB = """
import json, os

class Error(Exception):
    pass

class Image:
    def __init__(self, pixels):
        self.shape = pixels.shape

class Run:
    def __init__(self, folder):
        self._path = os.path.join(folder, "calls")

    def __getattr__(self, name):
        def note(*args, **options):
            with open(self._path, "a") as file:
                call = [name, args, options]
                file.write(json.dumps(call, default=lambda image: image.shape) + "\\n")
        return note

def init(**options):
    if os.environ.get("WANDB_MODE") == "refused":
        raise Error("nobody has logged in")
    run = Run(options["dir"])
    run.init(**options)
    return run
"""


@pytest.fixture
def wandb(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(folder)
    # Not where it is installed.
    monkeypatch.setitem(sys.modules, "wandb", None)
    del sys.modules["wandb"]


def read_calls(workdir):
    """Yields the method, arguments and options of each call."""
    return [json.loads(line) for line in (workdir / "calls").read_text().splitlines()]


def log(workdir, names=("wandb",), **options):
    return Log(
        workdir, start_step=0, num_steps=2, batch_size=4, every=1, trackers=names
    )


def test_a_resumed_run_goes_on_as_the_same_run_of_wandb(wandb, tmp_path):
    settings, recipe = toy_run(trackers=("wandb",)), {"seed": 0}
    with pytest.raises(InterruptedError):
        fit(stop_before(Toy(), 7), settings, tmp_path, recipe=recipe)
    fit(Toy(), settings, tmp_path, recipe=recipe)

    calls = read_calls(tmp_path)
    first, second = (options for name, _, options in calls if name == "init")
    assert first == second
    assert first["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert (first["resume"], first["config"]) == ("allow", recipe)
    assert first["name"] == tmp_path.name
    ends = [options["exit_code"] for name, _, options in calls if name == "finish"]
    assert ends == [1, 0]
    rows = [arguments[0] for name, arguments, _ in calls if name == "log"]
    steps = [row["step"] for row in rows if "train/loss" in row]
    # The second start goes on from the checkpoint of step 4.
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [row["step"] for row in rows if "eval/top1" in row] == [4, 8, 12]
    drawn = [name for row in rows for name in row.keys() & {"augmented", "predictions"}]
    assert drawn == ["augmented", "predictions"]
    assert not (tmp_path / "tensorboard").exists()
    # W&B takes steps in any order only if they are an axis, not its own count.
    assert ["define_metric", ["*"], {"step_metric": "step"}] in calls


def test_both_trackers_get_the_same_and_none_get_nothing(wandb, tmp_path):
    (tmp_path / "none").mkdir()
    for names, folder in (
        (("tensorboard", "wandb"), tmp_path),
        ((), tmp_path / "none"),
    ):
        with log(folder, names) as opened:
            opened.write_step(1, {"loss": 2.0})
    assert ["log", [{"step": 1, "train/loss": 2.0}], {}] in read_calls(tmp_path)
    assert any((tmp_path / "tensorboard").iterdir())
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metrics.jsonl"]


def test_the_first_process_alone_has_trackers(wandb, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with log(tmp_path) as opened:
        opened.write_step(1, {"loss": 2.0})
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_wandb_is_a_sentence(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "refused")
    with pytest.raises(ConfigError, match=r"refuses \(nobody has logged in\): run"):
        log(tmp_path)


def test_wandb_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'litv2_jax\[wandb\]'"):
        fit(Toy(), toy_run(trackers=("wandb",)), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="trackers is 'x'; use tensorboard or wandb"):
        toy_run(trackers=("x",))
    assert set(TRACKERS) == {"tensorboard", "wandb"}


def test_a_run_from_before_there_were_trackers_resumes(tmp_path):
    config = demo.get_config().to_dict()
    old = {name: value for name, value in config.items() if name != "trackers"}
    RunConfig(old, tmp_path, may_change=False).write()
    defaults = RunSettings.defaults()
    RunConfig(config, tmp_path, may_change=False, defaults=defaults)
    with pytest.raises(ConfigError, match="trackers was .'tensorboard'., is .'wandb'."):
        RunConfig(
            {**config, "trackers": ("wandb",)},
            tmp_path,
            may_change=False,
            defaults=defaults,
        )
