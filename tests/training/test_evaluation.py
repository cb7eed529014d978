import pytest

from litv2_jax.training.devices import Devices, StopRequest
from litv2_jax.training.evaluation import Evaluator
from litv2_jax.training.run import Run
from tests.training.test_loop import Wrapper
from tests.training.toy import Toy, toy_run


class Batches:
    """Batches of an evaluation that know whether their workers may end."""

    def __init__(self, batches):
        self._batches = iter(batches)
        self.is_closed = False

    def __iter__(self):
        return self

    def __next__(self):
        assert not self.is_closed
        return next(self._batches)

    def close(self):
        self.is_closed = True


def fail(_):
    raise RuntimeError("unreadable")


@pytest.mark.parametrize("end", ["last batch", "signal", "error"])
def test_workers_end_with_the_evaluation(end):
    task, devices = Toy(), Devices()
    batches = Batches(task.eval_batches())
    changes = {"check_unreadable": fail} if end == "error" else {}
    task = Wrapper(task, eval_batches=lambda: batches, **changes)
    state = devices.replicate(Run(task, toy_run(), devices).create_state())
    evaluator, stop = Evaluator(task, devices), StopRequest()
    stop.is_received = end == "signal"
    if end == "error":
        with pytest.raises(RuntimeError, match="unreadable"):
            evaluator(state.params, state.stats, stop)
    else:
        results = evaluator(state.params, state.stats, stop)
        assert bool(results) == (end == "last batch")
    assert batches.is_closed
