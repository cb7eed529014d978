"""Files made to harm who reads them; see `tests/fuzz/directed.py`."""

import re
import sys

import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert import pickled_calls, pickled_objects, unpickle, views
from tests.convert.test_unpickle import write_zip
from tests.fuzz import directed
from tests.fuzz.judge import Examiner, find_fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

FILES = {"data/0": np.arange(6, dtype="<f4").tobytes(), "data/2": bytes(400_000)}


@pytest.fixture(scope="module")
def examine():
    with Examiner() as examiner:
        yield examiner


def cases(group):
    pickles = getattr(directed, group)
    return [pytest.param(x, id=name.replace(" ", "-")) for name, x in pickles.items()]


def judge(examine, tmp_path, pickled: bytes) -> dict:
    path = write_zip(tmp_path / "x.pth", pickled, FILES)
    verdict = examine(path)
    assert find_fault(path, verdict, verdict.get("digests", [])) == ""
    return verdict


def check_refusal(verdict: dict, reason: str) -> None:
    assert verdict["outcome"] == "raised", verdict
    assert re.search(reason, verdict["text"]), verdict["text"]


@pytest.mark.parametrize("pickled", cases("REWRITTEN"))
def test_nothing_is_rewritten(examine, tmp_path, pickled):
    reason = "attributes of a|assigned to a|appended to a|to be changed|shape a list"
    check_refusal(judge(examine, tmp_path, pickled), reason)


@pytest.mark.parametrize("pickled", cases("VIEWS"))
def test_views_stay_within_storages_and_storages_within_files(
    examine, tmp_path, pickled
):
    reason = (
        "impossible layout|beyond the end|larger than the file|unknown type|same "
        "numbers again|not as long as|are not tensors|is missing|that it does not take|"
        "not described as|no instruction"
    )
    check_refusal(judge(examine, tmp_path, pickled), reason)


@pytest.mark.parametrize("pickled", cases("BOMBS"))
def test_bombs_are_refused_in_bounded_time_and_memory(examine, tmp_path, pickled):
    reason = (
        "400,000 instructions|MB of names|names that are no text|place in the memo|too "
        "long or has no end|where at most 20,000|not tensors: b0|builtins.getattr|"
        "no tensors by name"
    )
    check_refusal(judge(examine, tmp_path, pickled), reason)


@pytest.mark.parametrize("pickled", cases("PASSED_OVER"))
def test_what_is_passed_over_takes_no_time(examine, tmp_path, pickled):
    assert judge(examine, tmp_path, pickled)["outcome"] == "read"


@pytest.mark.parametrize("pickled", cases("MALFORMED"))
def test_other_pickles_are_refused(examine, tmp_path, pickled):
    check_refusal(
        judge(examine, tmp_path, pickled), "is damaged|does not take|no tensors"
    )


@pytest.mark.parametrize("pickled", cases("UNSAFE"))
def test_calls_of_code_are_refused_as_unsafe(examine, tmp_path, pickled):
    verdict = judge(examine, tmp_path, pickled)
    check_refusal(verdict, "refused as unsafe")
    assert verdict["kinds"][0] == "UnsafeFileError"


def test_reading_changes_nothing_of_the_reader(tmp_path):
    modules = (pickled_calls, pickled_objects, unpickle, views)

    def describe():
        return [
            (name, getattr(value, "__defaults__", None), dict(vars(value)))
            for module in modules
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        ]

    before = describe()
    for pickled in directed.REWRITTEN.values():
        with pytest.raises(ValueError, match="x.pth"):
            read_torch_checkpoint(write_zip(tmp_path / "x.pth", pickled[:-1], FILES))
    assert describe() == before


def test_what_is_beside_the_weights_does_not_touch_them(tmp_path):
    pickled = directed.PASSED_OVER["a dictionary's methods"]
    arrays = read_torch_checkpoint(write_zip(tmp_path / "x.pth", pickled, FILES))
    assert list(arrays) == ["a"]
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
