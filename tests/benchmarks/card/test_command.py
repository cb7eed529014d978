import os
import signal
import subprocess
import sys

import jax
import pytest

from benchmarks import __main__ as command
from benchmarks.card import ceilings, devices, page, parity
from benchmarks.card.command import SMALL, Report
from benchmarks.programs import Case
from benchmarks.results import Row, read_json

DESCRIPTION = {"device": "A card", "versions": "jax=9"}


def test_ceilings_are_rates():
    found = ceilings.measure_ceilings(megabytes=1, side=64)
    # Of a CPU, whatever it is.
    assert 1e7 < found.bandwidth < 1e13
    assert 1e7 < found.flops < 1e14


def test_a_section_that_fails_ends_nothing_else(tmp_path, capsys):
    report = Report(tmp_path / "card.json", DESCRIPTION, deadline=float("inf"))

    def fail():
        raise TypeError("nothing works")

    report.run("first", fail)
    report.run("second", lambda: [Row("part", "name", "ms", 3.0)])
    rows, run = read_json(tmp_path / "card.json")
    assert run == DESCRIPTION
    assert [(row.part, row.name) for row in rows] == [
        ("left out", "first: nothing works"),
        ("seconds", "first"),
        ("part", "name"),
        ("seconds", "second"),
    ]
    assert "TypeError: nothing works" in capsys.readouterr().err


def test_no_section_begins_too_late(tmp_path):
    report = Report(tmp_path / "card.json", DESCRIPTION, deadline=0)
    report.run("late", lambda: pytest.fail("it began"))
    assert report.rows == [Row("left out", "late: no time was left", "s", 0)]


def test_the_page_has_a_table_for_each_part(tmp_path):
    rows = [
        Row("ceilings", "measured", "TB/s", 4.125),
        Row("ceilings", "measured", "TFLOP/s", 797.5),
        Row("parity", "tests", "passed", 202),
    ]
    page.write(rows, DESCRIPTION, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert text.startswith("# A card\n\n- device: A card\n- versions: jax=9\n")
    assert "## Ceilings\n\n|  | TB/s | TFLOP/s |\n" in text
    assert "| measured | 4.125 | 797.5 |" in text
    assert "## Parity\n\n|  | passed |\n| --- | --- |\n| tests | 202 |" in text


@pytest.mark.slow
def test_tests_that_fail_are_counted_and_kept(tmp_path, monkeypatch):
    path = tmp_path / "test_it.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_one(): pass\n"
        "@pytest.mark.gpu\ndef test_two(): assert 1 == 2\n"
        "def test_three(): assert False, 'is not for a GPU'\n"
    )
    monkeypatch.setattr(parity, "REHEARSAL", (str(path),))
    rows = parity.start(is_rehearsal=True).wait(100, tmp_path / "log.txt")
    found = {row.quantity: row.value for row in rows}
    assert found == {"failed": 1, "passed": 1, "exit status": 1}
    assert "assert 1 == 2" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("ignored", [False, True])
def test_tests_that_nobody_waits_for_end(monkeypatch, ignored):
    monkeypatch.setattr(parity, "SECONDS_TO_END", 1)
    handler = "SIG_IGN" if ignored else "SIG_DFL"
    code = f"import signal, time; signal.signal(signal.SIGINT, signal.{handler})"
    code += "; print('ready', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        parity.ParityTests(process).stop()
        assert process.poll() == -(signal.SIGKILL if ignored else signal.SIGINT)


def test_files_with_tests_for_gpus_are_found():
    names = [os.path.basename(path) for path in parity._find_files()]
    assert "test_attention.py" in names
    assert "test_families.py" not in names


@pytest.mark.slow
def test_several_devices_are_compared_with_one():
    assert len(jax.devices()) == 8
    sizes = {**SMALL, "window_sizes": (0, 0, 0, 0)}
    case = Case("litv2_s", "forward", 2, 32, "float32", sizes)
    rows = devices.measure(case, rounds=2)
    assert [row.name for row in rows] == 2 * ["1 of 8"] + 2 * ["8 of 8"]
    found = {(row.name, row.quantity): row.value for row in rows}
    assert found["1 of 8", "% of as many single ones"] == 100
    assert found["8 of 8", "images/s"] > 0


class Missing:
    """Refuses the packages that the machine of a GPU may lack."""

    names = ("grain", "tensorflow_datasets", "tensorboardX")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is not here")


def test_the_command_needs_nothing_that_a_card_may_lack():
    absent = "".join(f"sys.modules[{name!r}] = None; " for name in Missing.names)
    code = f"import sys; {absent}import benchmarks.card.command"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_rehearsal_runs_everything(tmp_path, monkeypatch):
    for name in [*sys.modules]:
        if name.split(".")[0] in (*Missing.names, "litv2_jax", "benchmarks"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    output = tmp_path / "card.json"
    options = "--rehearse --variants litv2_s --rounds 2 --dtype float32 --against-torch"
    options += f" --keep {tmp_path / 'keep'} --output {output}"
    command.main(["card", *options.split()])
    rows, _ = read_json(output)
    found = {row.part for row in rows}
    assert {"ceilings", "parity", "several GPUs", "NMS", "depthwise"} <= found
    assert "forward, batch 8, float32" in found
    assert "train, batch 8, float32, roofline" in found
    assert "left out" not in found
    assert (tmp_path / "card.md").exists()
    assert len([*(tmp_path / "keep").glob("*.txt.gz")]) == 2
