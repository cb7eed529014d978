"""Averaged weights: kept by the step, saved, evaluated and served."""

import functools

import jax
import numpy as np
import optax
import pytest

from litv2_jax.checkpoints.arrays import StoredArrays
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from litv2_jax.training.step import TrainState
from tests.training.test_loop import InterruptedError, read_rows, stop_before
from tests.training.toy import Toy, toy_run


def read(checkpoint):
    """Returns the arrays of a checkpoint by name."""
    return StoredArrays.open(checkpoint, ["model", "trained", "optimizer"]).read()


def fit_on_one(task, run, workdir):
    return fit(task, run, workdir, Devices(jax.devices()[:1]))


def test_the_decay_rises_and_steps_that_are_skipped_do_not_count():
    optimizer = optax.with_extra_args_support(optax.sgd(1.0))
    params = {"w": np.float32([1.0, 2.0])}
    state = TrainState.begin(params, {"num": np.int32(0)}, optimizer, has_average=True)
    apply = jax.jit(
        functools.partial(TrainState.apply, optimizer=optimizer, ema_decay=0.2)
    )
    weights, average = params["w"], params["w"]
    for step, is_finite in enumerate([True, True, False, True]):
        stats = {"num": np.int32(step + 1)}
        state = apply(state, {"w": np.float32([1.0, -1.0])}, stats, is_finite=is_finite)
        if is_finite:
            weights = weights - np.float32([1.0, -1.0])
            decay = min(0.2, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * weights
    served, stats = state.served()
    np.testing.assert_allclose(state.params["w"], weights, rtol=1e-6)
    np.testing.assert_allclose(served["w"], average, rtol=1e-6)
    # A count is no average.
    assert int(stats["num"]) == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fit_on_one(Toy(), toy_run(ema_decay=0.9), workdir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The workdir and the results of the same run without averages."""
    workdir = tmp_path_factory.mktemp("plain")
    return workdir, fit_on_one(Toy(), toy_run(), workdir)


def test_resuming_equals_never_stopping_bit_for_bit(whole, tmp_path):
    run = toy_run(ema_decay=0.9)
    with pytest.raises(InterruptedError):
        fit_on_one(stop_before(Toy(), 7), run, tmp_path)
    assert fit_on_one(Toy(), run, tmp_path) == whole[1]
    ours, theirs = (read(w / "checkpoints" / "12") for w in (tmp_path, whole[0]))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_the_averages_are_what_is_evaluated_and_served(whole, plain):
    workdir, results = whole
    arrays = read(workdir / "checkpoints" / "12")
    name = "params/head/kernel"
    assert not np.array_equal(arrays[f"model/{name}"], arrays[f"trained/{name}"])
    scores = evaluate(Toy(), workdir / "checkpoints" / "12")
    assert scores["loss"] == pytest.approx(results["loss"], rel=1e-6)
    # Training is the same with and without.
    without, other = plain
    assert read_rows(without, "train") == read_rows(workdir, "train")
    assert other["loss"] != pytest.approx(results["loss"], rel=1e-4)
    trained = {k.removeprefix("model/"): x for k, x in read_plain(without).items()}
    np.testing.assert_array_equal(trained[name], arrays[f"trained/{name}"])


def read_plain(workdir):
    arrays = read(workdir / "checkpoints" / "12")
    assert not [name for name in arrays if name.startswith("trained/")]
    return arrays


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.9), (0.9, 0.0)])
def test_averages_may_begin_and_end_with_a_start(
    tmp_path, capsys, plain, before, after
):
    with pytest.raises(InterruptedError):
        fit_on_one(stop_before(Toy(), 6), toy_run(ema_decay=before), tmp_path)
    old = read(tmp_path / "checkpoints" / "4")
    fit_on_one(Toy(), toy_run(ema_decay=after), tmp_path)
    said = "has no averages: they start from its weights" in capsys.readouterr().out
    assert said == bool(after)
    new = read(tmp_path / "checkpoints" / "12")
    assert ("trained/params/head/kernel" in new) == bool(after)
    assert ("trained/params/head/kernel" in old) == bool(before)
    # The weights went on from those that were trained, not from the averages.
    part = "trained" if after else "model"
    expected = read_plain(plain[0])["model/params/head/kernel"]
    np.testing.assert_array_equal(new[f"{part}/params/head/kernel"], expected)
