"""Flags about several processes, and what to say of the machine's limits."""

import errno

import jax
import pytest

from litv2_jax.settings import ConfigError
from litv2_jax.training.launch import check_processes
from litv2_jax.training.limits import explain_limit


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("", 2, 0), "--num-processes is 2, but without --coordinator there is one"),
        (("", 1, 5), "--process-id is 5, but without --coordinator there is one"),
        (("", 1, -1), "--process-id is -1, but without --coordinator"),
        (("", 0, 0), "--num-processes is 0 but must be within 1"),
        (("localhost:9000", 2, 2), "--process-id is 2 but must be within 0 and 1"),
        (("localhost:9000", 2, -1), "--process-id is -1 but must be within 0 and 1"),
        (("garbage", 2, 0), "--coordinator is 'garbage' but must be HOST:PORT"),
        (("localhost:port", 2, 0), "must be HOST:PORT"),
        (("localhost:0", 2, 0), "must be HOST:PORT"),
        (("localhost:70000", 2, 0), "must be HOST:PORT"),
        ((":9000", 2, 0), "must be HOST:PORT"),
        (("a b:9000", 2, 0), "must be HOST:PORT"),
        (("no.such.host.invalid:9000", 2, 0), "whose host is not known"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        check_processes(*flags)


@pytest.mark.parametrize(
    "flags",
    [
        ("", 1, 0),
        ("localhost:9000", 1, 0),
        ("localhost:9000", 2, 1),
        ("127.0.0.1:9000", 8, 7),
        ("[::1]:9000", 2, 0),
    ],
)
def test_flags_that_can_work_pass(flags):
    check_processes(*flags)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "The machine has too little memory: lower config.data.num_w"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "`ulimit -n 65536`"),
        (OSError(errno.ENFILE, "Too many open files"), "Too many files are open"),
        (RuntimeError("can't start new thread"), "The machine allows no more threads"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            "A device has too little memory: lower config.batch_size",
        ),
    ],
)
def test_limits_of_the_machine_are_explained(error, message):
    assert message in explain_limit(error)


def test_other_errors_stay_what_they_are():
    for error in (
        RuntimeError("x"),
        OSError(errno.ENOENT, "x"),
        jax.errors.JaxRuntimeError("INTERNAL: x"),
    ):
        assert explain_limit(error) is None
