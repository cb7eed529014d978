import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.results import Row, format_tables, read_json

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows and machine of the shortest possible run of the command."""
    output = tmp_path_factory.mktemp("results") / "data.json"
    # On its own, because worker processes start from the main module anew.
    options = f"data --images 4 --workers 0 --rounds 1 --output {output}".split()
    arguments = [sys.executable, "-m", "benchmarks", *options]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "to feed one H200" in done.stdout
    return read_json(output)


def select(measured, part, quantity):
    return {
        row.name: row.value
        for row in measured[0]
        if (row.part, row.quantity) == (part, quantity)
    }


def test_every_part_is_measured(measured):
    stages = select(measured, "one core", "share of time")
    decoding, cropping = ["read", "open", "decode"], ["crop", "resize", "flip"]
    collecting = ["to an array", "batch", "between processes"]
    assert list(stages) == [*decoding, *cropping, *collecting]
    rand_augment = select(measured, "RandAugment", "ms/image")
    assert list(rand_augment) == ["on the host", "on the device, this CPU"]
    assert list(select(measured, "pipeline", "images/s")) == ["threads only"]
    cores = select(measured, "to feed one H200", "cores")
    assert list(cores) == [
        "litv2_s, measured",
        *(f"litv2_{size}, estimated" for size in "smb"),
    ]


def test_numbers_are_possible(measured):
    for row in measured[0]:
        assert row.value > 0 or row.name == "between processes", row
    shares = select(measured, "one core", "share of time")
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_cores_times_speed_is_what_the_gpu_needs(measured):
    speed = select(measured, "pipeline", "images/s per core")["threads only"]
    on_host = select(measured, "RandAugment", "ms/image")["on the host"]
    name = "cores, RandAugment on the host"
    needed, cores, more = (
        select(measured, "to feed one H200", quantity)
        for quantity in ("images/s", "cores", name)
    )
    for model, images in needed.items():
        assert cores[model] * speed == pytest.approx(images, rel=1e-4)
        with_host = 1 / speed + on_host / 1000
        assert more[model] == pytest.approx(images * with_host, rel=1e-4)


def test_the_file_says_where_it_was_measured_and_no_paths(measured):
    rows, run = measured
    assert run["commit"]
    assert run["cpu"]
    assert run["cores"] > 0
    assert "pillow=" in run["versions"]
    assert str(ROOT) not in f"{rows} {run}"


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["no_such_benchmark"])
    message = capsys.readouterr().err
    assert "invalid choice: 'no_such_benchmark' (choose from " in message
    assert "data" in message.split("choose from")[1]


@pytest.mark.parametrize(
    ("option", "number"), [("--images", 0), ("--rounds", 0), ("--workers", -1)]
)
def test_numbers_that_are_too_small_are_refused(capsys, option, number):
    with pytest.raises(SystemExit):
        command.main(["data", f"{option}={number}"])
    message = f"argument {option}: {number} is too small; at least {number + 1}"
    assert message in capsys.readouterr().err


def test_tables_have_a_line_for_each_name():
    rows = [Row("part", "a", "speed", 1), Row("part", "b", "size", 22.5)]
    lines = format_tables(rows).splitlines()
    assert lines == ["part  speed  size", "a         1", "b            22.5"]
