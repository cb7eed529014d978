"""What a user meets who starts `train.py`."""

import json

import pytest

from litv2_jax.train import run_command
from tests.programs import Program

DIGITS = "--config=configs/demo.py:digits"


def start(*arguments: object, **environment: str) -> Program:
    """Returns the program `train.py` after it has ended."""
    program = Program(run_command, *arguments, **environment)
    program.wait()
    return program


SMALL = ["--config.data.image_size=32", "--config.model.sizes.embed_dim=8"]


MISTAKES = [
    ([], "Flag --config must have a value"),
    ([DIGITS], "Add --workdir FOLDER to the command."),
    ([DIGITS, "--eval-only"], "Add --weights FOLDER to the command."),
    (["--config=configs/demo.py:letters"], "No recipe for 'letters'"),
    (["--config=configs/absent.py"], "the recipes of the package are configs/ade20k"),
    ([DIGITS, "--config.batchsize=8"], 'Did you mean "batch_size"'),
    ([DIGITS, "--config.batch_size=many"], "config.batch_size=many"),
    ([DIGITS, "--workdir=w", "--config.epochs=0"], "config.epochs is 0.0 but must"),
    ([DIGITS, "--workdir=w", "--config.task=x"], "config.task is 'x'; there are"),
    ([DIGITS, "--workdir=/proc/none"], "/proc/none"),
    ([DIGITS, "--workdir=README.md/w"], "README.md is a file): name a folder"),
    ([DIGITS, "--workdir=w", "--config.seed=-1"], "config.seed is -1 but must be"),
    ([DIGITS, "--workdir=w", "--num-processes=2"], "--num-processes is 2, but"),
    ([DIGITS, "--workdir=w", "--coordinator=garbage"], "must be HOST:PORT"),
    ([DIGITS, "--eval-only", "--weights=absent"], "absent: name the workdir"),
    ([DIGITS, "--eval-only", "--weights=published:x"], "weights of 'x'. `python -m"),
    # Those of config.model.name are looked for.
    ([DIGITS, "--eval-only", "--weights=published"], "The mirror is 'disk' but must"),
    (["--config=README.md"], "README.md is not Python"),
    ([DIGITS, "--workdir=w", "--profile=9"], "--profile is '9'; it must be START:"),
    (
        [DIGITS, "--workdir=w", "--compilation-cache=/proc/none"],
        "Compiled programs cannot be kept in /proc/none",
    ),
    (
        [DIGITS, "--workdir=w", "--config.accumulation_steps=3"],
        "config.batch_size is 64, whose parts (config.accumulation_steps is 3)",
    ),
    ([DIGITS, "--workdir=w", "--config.eval.tta=x"], "config.eval.tta is 'x'; use"),
    ([DIGITS, "--workdir=w", "--config.remat=all"], "config.remat is 'all'; use"),
    (
        [DIGITS, "--workdir=w", "--config.batch_norm_group_size=24"],
        "config.batch_norm_group_size is 24, which does not divide the 64",
    ),
    (
        [DIGITS, "--workdir=w", "--config.augment.mix_group_size=24"],
        "config.augment.mix_group_size is 24, which does not divide "
        "config.batch_size, 64: use a divisor",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_answered_with_a_sentence(tmp_path, arguments, message):
    environment = {"LITV2_JAX_MIRROR": "disk", "LITV2_JAX_CACHE": str(tmp_path / "x")}
    program = start(*arguments, **environment)
    assert program.poll() == 1
    last = program.stderr.strip().splitlines()[-1]
    assert last.startswith("train.py: ")
    assert message in last
    assert "Traceback" not in program.stderr


def test_a_dry_run_tells_what_a_run_would_take(tmp_path):
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    result = start(DIGITS, "--dry-run", f"--workdir={tmp_path / 'w'}", data, *SMALL)

    assert result.poll() == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "  " in line]
    facts = dict(line.split("  ", 1) for line in lines)
    assert "1,437 images to train on, 360 to evaluate" in facts["data"]
    assert "330, 22 to an epoch" in facts["steps"]
    assert "1e-05 at step 330" in facts["learning rate"]
    assert "hours in all" in facts["time"]
    assert "GiB on each device" in facts["memory"]
    assert "1 to train, 1 to evaluate, 1 to draw" in facts["programs"]
    assert (
        facts["first"]
        .strip()
        .endswith(f"would be prepared in {tmp_path}/data/digits/1.0.0")
    )
    # Nothing is written, not even the data set.
    assert not list(tmp_path.iterdir())


def test_a_workdir_with_other_settings_is_refused(tmp_path):
    settings = {"seed": 1, "model": {"name": "litv2_b"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    result = start(DIGITS, f"--workdir={tmp_path}")
    assert result.poll() == 1
    assert "config.model.name was 'litv2_b', is 'litv2_s'" in result.stderr
    assert "config.seed was 1, is 0" in result.stderr
    assert "--change-config" in result.stderr
    assert json.loads((tmp_path / "config.json").read_text()) == settings


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
    """Not with the first one's checkpoints, but from the beginning."""
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    cache = f"--compilation-cache={tmp_path / 'cache'}"
    options = [*SMALL, data, cache, "--config.epochs=2.0"]
    programs = []
    for workdir in ("first", "second"):
        result = start(DIGITS, *options, f"--workdir={tmp_path / workdir}")
        assert result.poll() == 0, result.stderr
        programs.append(set((tmp_path / "cache").glob("*/*-cache")))
    assert len(programs[0]) > 3
    assert programs[1] == programs[0]

    off = start(
        DIGITS, *options, "--no-compilation-cache", f"--workdir={tmp_path / 'x'}"
    )
    assert off.poll() == 0
