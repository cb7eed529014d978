"""Why a process of several says that it ends; whole runs are in test_faults.py."""

import os
import sys

import jax
import pytest
from jax._src import distributed

from litv2_jax.training import failures


class Store:
    """JAX's key-value store, in which a key is set once."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        if key in self.values:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS: key exists")
        self.values[key] = value

    def key_value_try_get(self, key):
        return self.values[key]


@pytest.fixture
def store(monkeypatch):
    """That of a run of two processes, one of which this is."""
    store = Store()
    monkeypatch.setattr(distributed.global_state, "client", store)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    # A process that ends can be caught here.
    monkeypatch.setattr(os, "_exit", sys.exit)
    # These stay set for the rest of a process.
    monkeypatch.setattr(failures._Status, "is_failing", False)
    return store


def fail(monkeypatch, process, error):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    with pytest.raises(SystemExit, match="1"), failures.failing_together():
        raise error


def test_a_process_that_fails_because_another_did_gives_its_reason(
    store, monkeypatch, capsys
):
    fail(monkeypatch, 1, OSError("The disk with the data is gone."))
    fail(monkeypatch, 0, RuntimeError("Connection closed by peer"))

    first, second = capsys.readouterr().err.splitlines()
    reason = "process 1 of 2 failed: The disk with the data is gone."
    assert first.endswith(reason)
    assert second.endswith(f"{reason} Process 0 ends with it.")


def test_a_process_whose_coordinator_is_gone_gives_its_own(store, monkeypatch, capsys):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: connection refused")

    store.key_value_set = store.key_value_try_get = refuse

    fail(monkeypatch, 1, RuntimeError("Connection closed by peer"))

    assert "process 1 of 2 failed: Connection closed by peer" in capsys.readouterr().err
