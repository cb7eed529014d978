import json
import socket
import sys

import jax
import pytest

from litv2_jax.training.loop import fit
from tests.training.test_loop import InterruptedError, stop_before
from tests.training.toy import Toy, toy_run


def test_every_start_records_what_it_ran_with(tmp_path):
    with pytest.raises(InterruptedError):
        fit(stop_before(Toy(), 7), toy_run(), tmp_path)
    fit(Toy(), toy_run(), tmp_path)
    fit(Toy(), toy_run(), tmp_path)  # It is finished, and starts nothing.

    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert [first["step"], second["step"]] == [0, 4]
    assert first["command"] == sys.argv
    assert first["versions"]["jax"] == jax.__version__
    assert {"flax", "litv2_jax", "optax"} <= first["versions"].keys()
    assert first["devices"] == "8 x cpu"
    assert first["hosts"] == [socket.gethostname()]
    assert first["time"] <= second["time"]
    assert "commit" in first
