"""Damaged checkpoints end in their documented error, or are read right."""

import collections
import inspect
import sys

import pytest

from tests import fuzz_checkpoints
from tests.fuzz import broken_readers
from tests.fuzz.judge import ORACLE, READER, Examiner, find_fault
from tests.fuzz.mutations import OF_PTH, OF_SAFETENSORS
from tests.reference import GOLDEN

# The judge counts the memory of a process as Linux does.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

BARE = GOLDEN / "litv2_tiny_checkpoint_bare.pth"
READERS = [
    name
    for name, function in inspect.getmembers(broken_readers, inspect.isfunction)
    if function.__module__ == broken_readers.__name__
]


def check(cases: list[fuzz_checkpoints.Case]) -> None:
    assert not [case for case in cases if case.fault]
    # Neither is everything refused, nor nothing, of any kind.
    kinds = collections.Counter((case.kind, case.outcome) for case in cases)
    for kind in (".pth", ".safetensors"):
        assert kinds[kind, "read"] > 0.05 * len(cases) * (0.3 + 0.7 * (kind == ".pth"))
        assert kinds[kind, "TorchFileError"] > 0.15 * len(cases)
    assert kinds[".pth", "UnsafeFileError"] > 0.01 * len(cases)
    mutations = collections.Counter((case.kind, case.mutation) for case in cases)
    assert {name for kind, name in mutations if kind == ".pth"} == {*OF_PTH}
    assert {n for kind, n in mutations if kind == ".safetensors"} == {*OF_SAFETENSORS}


def test_damaged_files_are_refused_or_read_right(tmp_path):
    check(list(fuzz_checkpoints.run(range(300), tmp_path)))


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused_or_read_right(tmp_path):
    check(list(fuzz_checkpoints.run(range(10_000, 20_000), tmp_path)))


@pytest.fixture(scope="module")
def expected():
    with Examiner(ORACLE) as consult:
        return consult(BARE)["digests"]


def test_the_judge_finds_nothing_wrong_with_what_is_right(expected):
    assert len(expected) == 1
    with Examiner() as examine:
        assert find_fault(BARE, examine(BARE), expected) == ""


@pytest.mark.parametrize("name", READERS)
def test_the_judge_finds_what_is_wrong(name, expected):
    with Examiner(f"{broken_readers.__name__}:{name}") as examine:
        assert find_fault(BARE, examine(BARE), expected)


def test_the_command_counts_and_fails(tmp_path):
    reader = f"{broken_readers.__name__}:loses_an_array"
    cases = list(fuzz_checkpoints.run(range(40), tmp_path, reader))
    table = fuzz_checkpoints.summarize(cases)
    faults = sum(case.outcome == "read" for case in cases)
    assert faults > 3
    assert f"faults: {faults}\n" in table
    assert "read other arrays than there are" in table
    good = fuzz_checkpoints.summarize(
        list(fuzz_checkpoints.run(range(40), tmp_path, READER))
    )
    assert good.endswith("faults: 0")
