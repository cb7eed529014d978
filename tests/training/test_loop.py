import itertools
import json
import os
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.checkpoints import find_checkpoint, load_weights
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import Evaluator, evaluate
from litv2_jax.training.loop import StoppedError, TrainingError, fit
from tests.training.toy import Toy, toy_run


def read_rows(workdir, kind):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["kind"] == kind]


def read_weights(task, checkpoint):
    model = nnx.eval_shape(lambda: task.build(nnx.Rngs(0)))
    return load_weights(checkpoint, *split_state(model))


class Wrapper:
    """A task with some of its methods replaced."""

    def __init__(self, task, **methods):
        self._task = task
        self.__dict__.update(methods)

    def __getattr__(self, name):
        return getattr(self._task, name)


class InterruptedError(Exception):
    pass


def stop_before(task, step):
    """A task whose data break off, as if the process had been killed."""

    def train_batches(start_step):
        batches = iter(task.train_batches(start_step))
        for _ in range(start_step, step - 1):
            yield next(batches)
        raise InterruptedError

    return Wrapper(task, train_batches=train_batches)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir and the results of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fit(Toy(), toy_run(), workdir)


@pytest.fixture
def whole(finished):
    """The workdir, only to be read."""
    return finished[0]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(5, marks=pytest.mark.slow),
        7,
        pytest.param(12, marks=pytest.mark.slow),
    ],
)
def test_resuming_equals_never_stopping_bit_for_bit(whole, tmp_path, step):
    task, run = Toy(), toy_run()
    with pytest.raises(InterruptedError):
        fit(stop_before(task, step), run, tmp_path)
    fit(task, run, tmp_path)

    for kind in ("train", "eval"):
        # What was logged after the last checkpoint has been forgotten.
        assert read_rows(whole, kind) == read_rows(tmp_path, kind)
    chex.assert_trees_all_equal(
        read_weights(task, whole / "checkpoints/12"),
        read_weights(task, tmp_path / "checkpoints/12"),
    )


def test_a_run_traces_its_step_once(tmp_path):
    task = Toy()
    once = Wrapper(task, loss=chex.assert_max_traces(task.loss, n=1))
    fit(once, toy_run(), tmp_path)
    assert len(read_rows(tmp_path, "train")) == 12


def test_a_half_written_line_of_the_log_is_dropped(tmp_path):
    task, run = Toy(), toy_run()
    with pytest.raises(InterruptedError):
        fit(stop_before(task, 7), run, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "kind": "tr')
    fit(task, run, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path, "train")] == [*range(1, 13)]


@pytest.mark.parametrize(
    "counts", [pytest.param((8, 2), marks=pytest.mark.slow), (1, 8)]
)
def test_a_run_resumes_on_another_number_of_devices(tmp_path, counts):
    task, run = Toy(), toy_run()
    first, second = (Devices(jax.devices()[:count]) for count in counts)
    fit(task, run, tmp_path / "whole", first)
    with pytest.raises(InterruptedError):
        fit(stop_before(task, 6), run, tmp_path / "parts", first)
    fit(task, run, tmp_path / "parts", second)
    whole, parts = (
        [row["loss"] for row in read_rows(tmp_path / name, "train")]
        for name in ("whole", "parts")
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_a_finished_run_says_so(tmp_path, capsys):
    task, run = Toy(), toy_run()
    results = fit(task, run, tmp_path)
    assert "epoch 3, step 12: top1" in capsys.readouterr().out

    assert fit(task, run, tmp_path) == results
    assert f"The run in {tmp_path} is finished, at step 12" in capsys.readouterr().out


@pytest.mark.usefixtures("curves")
def test_a_report_that_is_missing_is_made_up_for(tmp_path):
    """As after a kill between the last checkpoint and the report."""
    results = fit(Toy(), toy_run(), tmp_path)
    report = tmp_path / "report"
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    log = (tmp_path / "metrics.jsonl").read_text()
    shutil.rmtree(report)

    assert fit(Toy(), toy_run(), tmp_path) == results
    after = {path.name: path.read_bytes() for path in report.iterdir()}
    assert after == {name: x for name, x in before.items() if name != "augmented.png"}
    assert (tmp_path / "metrics.jsonl").read_text() == log


@pytest.mark.usefixtures("curves")
def test_a_run_is_logged_and_drawn(finished):
    whole, results = finished
    rows = read_rows(whole, "eval")
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[-1]["top1"] == results["top1"]
    names = {"step", "kind", "loss", "draw", "learning_rate", "grad_norm"}
    assert {frozenset(row) for row in read_rows(whole, "train")} == {frozenset(names)}
    assert (whole / "report/curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("predictions", "augmented"):
        assert (whole / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")
    summary = (whole / "report/summary.md").read_text()
    assert "12 steps, of which 0 were skipped" in summary
    assert f"| 12 | {results['top1']:.6g} |" in summary
    assert any((whole / "tensorboard").iterdir())


def test_rows_are_means_over_the_steps_between_them(whole, tmp_path):
    fit(Toy(), toy_run(log_every_steps=2), tmp_path)
    each, pairs = (
        [row["loss"] for row in read_rows(workdir, "train")]
        for workdir in (whole, tmp_path)
    )
    np.testing.assert_allclose(pairs, np.reshape(each, (-1, 2)).mean(1), rtol=1e-6)


def test_every_step_draws_anew(whole, tmp_path):
    fit(Toy(), toy_run(seed=1), tmp_path)
    draws = [row["draw"] for w in (whole, tmp_path) for row in read_rows(w, "train")]
    assert len(set(draws)) == len(draws) == 24


def test_evaluation_counts_every_example_once(whole):
    """Whatever the batch size: 40 examples fill 2.5 batches of 16."""
    scores = [evaluate(Toy(batch_size=size), whole) for size in (8, 16, 40, 48)]
    for result in scores:
        assert result["num_images"] == 40
        assert result["top1"] == scores[0]["top1"]
        assert result["loss"] == pytest.approx(scores[0]["loss"], rel=1e-5)


def broken_at(task, *steps):
    """A task whose loss is not finite at some updates; its data count them."""

    def train_batches(start_step):
        batches = iter(task.train_batches(start_step))
        for step in itertools.count(start_step + 1):
            batch = next(batches)
            yield {**batch, "is_broken": np.full(len(batch["label"]), step in steps)}

    def loss(model, batch, rngs):
        value, scalars = task.loss(model, batch, rngs)
        return jnp.where(batch["is_broken"].any(), jnp.nan, value), scalars

    return Wrapper(task, train_batches=train_batches, loss=loss)


def test_an_update_that_is_not_finite_is_left_out_and_told(whole, tmp_path, capsys):
    task = Toy()
    # So that the run goes on from what it had at step 5.
    fit(broken_at(task, 6, 7), toy_run(max_skipped_steps=2), tmp_path)

    rows = read_rows(tmp_path, "skipped")
    assert [(row["step"], row["loss"]) for row in rows] == [(6, "nan"), (7, "nan")]
    assert "step 6 skipped: its loss, its gradient" in capsys.readouterr().out
    assert [row["step"] for row in read_rows(tmp_path, "train")] == [
        *range(1, 6),
        *range(8, 13),
    ]
    rates = [row["learning_rate"] for row in read_rows(tmp_path, "train")]
    expected = [row["learning_rate"] for row in read_rows(whole, "train")]
    assert rates == expected[:5] + expected[7:]
    summary = (tmp_path / "report/summary.md").read_text()
    assert "of which 2 were skipped" in summary


def test_too_many_losses_in_a_row_that_are_not_finite_stop_the_run(tmp_path):
    task = broken_at(Toy(), 2, 5, 6)
    with pytest.raises(TrainingError, match="At step 6 the loss is nan and the grad"):
        fit(task, toy_run(max_skipped_steps=1), tmp_path)
    assert find_checkpoint(tmp_path).name == "4"


def test_checkpoints_between_evaluations(tmp_path):
    """What is logged does not depend on where a run was stopped."""
    run = toy_run(checkpoint_every_steps=3, log_every_steps=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(Toy(), run, whole)
    with pytest.raises(InterruptedError):
        fit(stop_before(Toy(), 11), run, parts)
    # The last two are kept, and the best of those that were evaluated.
    steps = {path.name for path in (parts / "checkpoints").iterdir()}
    assert {"8", "9"} <= steps <= {"4", "8", "9"}
    fit(Toy(), run, parts)
    assert read_rows(whole, "train") == read_rows(parts, "train")


def test_a_run_stopped_before_its_evaluation_makes_up_for_it(whole, tmp_path):
    task, run = Toy(), toy_run()

    def evaluate(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    original = Evaluator.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "__call__", evaluate)
        with pytest.raises(StoppedError, match="with a checkpoint of step 4 of 12"):
            fit(task, run, tmp_path)
    assert Evaluator.__call__ is original
    fit(task, run, tmp_path)
    for kind in ("train", "eval"):
        assert read_rows(whole, kind) == read_rows(tmp_path, kind)


def test_training_starts_from_given_weights(whole, tmp_path):
    rates = ("learning_rate", "warmup_learning_rate", "end_learning_rate")
    frozen = {f"optimizer.{name}": 1e-12 for name in rates}
    run = toy_run(weights=str(whole), epochs=1.0, **frozen)
    fit(Toy(), run, tmp_path)

    expected, _ = read_weights(Toy(), whole)
    actual, _ = read_weights(Toy(), tmp_path)
    chex.assert_trees_all_close(actual, expected, atol=1e-9, rtol=0)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(InterruptedError):
        fit(stop_before(Toy(), 6), toy_run(), tmp_path)
    with pytest.raises(ConfigError) as error:
        fit(Toy(hidden=9), toy_run(), tmp_path)
    message = str(error.value)
    assert "head/kernel: (8, 2) in the checkpoint, (9, 2) in the model" in message
    assert "It was made for {'name': 'toy', 'hidden': 8}" in message
