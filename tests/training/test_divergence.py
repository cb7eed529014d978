"""A run that diverges keeps a checkpoint to go back to, and says which."""

import dataclasses
import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from litv2_jax.checkpoints import list_steps
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import StoppedError, TrainingError, fit
from litv2_jax.training.step import TrainState, make_train_step
from tests.reference import mark_slow
from tests.training.test_loop import Wrapper, broken_at, read_rows, read_weights
from tests.training.test_old_checkpoints import unpack_format1
from tests.training.toy import Toy, toy_run

NAN, INF = math.nan, math.inf
# The step at which things go wrong.
BREAK = 7


def with_batches(task, change):
    """A task whose batches are changed by their step."""

    def train_batches(start_step):
        batches = iter(task.train_batches(start_step))
        for step in itertools.count(start_step + 1):
            yield change(step, next(batches))

    return Wrapper(task, train_batches=train_batches)


def with_inputs(value):
    def change(step, batch):
        x = batch["x"] if step < BREAK else np.full_like(batch["x"], value)
        return {**batch, "x": x}

    return with_batches(Toy(), change)


def with_huge_numbers():
    """Finite inputs, whose variance is not: it spoils the running statistics alone."""
    return with_inputs(1e25)


def with_an_infinite_gradient():
    """The loss stays finite."""
    task = broken_at(Toy(), *range(BREAK, 100))

    def loss(model, batch, rngs):
        value, scalars = Toy.loss(task, model, batch, rngs)
        # The slope of the root at 0 is infinite.
        offset = jnp.where(batch["is_broken"].any(), 0.0, 1.0)
        root = jnp.sqrt(jnp.abs(model.head.bias[...] * 0).sum() + offset)
        return value + root - offset, scalars

    return Wrapper(task, loss=loss)


def with_half_precision():
    """Ever larger numbers, until sixteen bits hold no more."""

    def loss(model, batch, rngs):
        logits = (model(batch["x"]) * batch["scale"][:, None]).astype(jnp.float16)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean().astype(jnp.float32), {"draw": jnp.zeros(())}

    def change(step, batch):
        scale = np.full(len(batch["label"]), 10.0 ** (step - 2), np.float32)
        return {**batch, "scale": scale}

    return Wrapper(with_batches(Toy(), change), loss=loss)


WAYS = {
    "the loss is not a number": (lambda: broken_at(Toy(), *range(BREAK, 100)), {}),
    "the inputs are infinite": (lambda: with_inputs(INF), {}),
    "the statistics overflow": (with_huge_numbers, {}),
    "the gradient is infinite": (with_an_infinite_gradient, {}),
    "half precision overflows": (with_half_precision, {}),
    "the rate is far too large": (Toy, {"learning_rate": 1e30}),
    "the rate becomes infinite": (Toy, {"end_learning_rate": INF}),
    "the rate ends as no number": (Toy, {"end_learning_rate": NAN}),
    "the decay explodes": (Toy, {"weight_decay": 1e7}),
}
# To the loop, each of them looks like one of the others.
LONG_WAYS = {
    "the inputs are infinite",
    "half precision overflows",
    "the rate becomes infinite",
    "the rate ends as no number",
    "the decay explodes",
}


def frequent_run(**optimizer):
    """Forty steps, checkpoints at every other one, and values no recipe may have."""
    run = toy_run(epochs=10.0, eval_every_epochs=10.0, checkpoint_every_steps=2)
    return dataclasses.replace(
        run, optimizer=dataclasses.replace(run.optimizer, **optimizer)
    )


def fit_on_one(task, run, workdir):
    return fit(task, run, workdir, Devices(jax.devices()[:1]))


@pytest.mark.parametrize("way", mark_slow(WAYS, LONG_WAYS.__contains__))
def test_a_diverged_run_keeps_a_good_checkpoint_and_names_it(tmp_path, way):
    """Through two restarts, as by a scheduler."""
    create, optimizer = WAYS[way]
    task, run = create(), frequent_run(**optimizer)
    kept = set()
    for _ in range(3):
        with pytest.raises(TrainingError) as error:
            fit_on_one(task, run, tmp_path)
        kept.add(tuple(list_steps(tmp_path / "checkpoints")))
    assert len(kept) == 1, "a restart changed the checkpoints"
    named = re.search(r"The checkpoint of step (\d+) is good", str(error.value))
    assert named, str(error.value)
    assert int(named[1]) in list_steps(tmp_path / "checkpoints")
    checkpoint = tmp_path / "checkpoints" / named[1]
    for array in jax.tree.leaves(read_weights(Toy(), checkpoint)):
        assert np.isfinite(array).all()
    assert math.isfinite(evaluate(Toy(), checkpoint)["loss"])


def test_a_checkpoint_from_which_no_step_can_be_made_is_not_called_good(tmp_path):
    """The step that spoils the weights is applied and saved: only then it shows."""
    task, run = Toy(), frequent_run(learning_rate=1e30)
    run = dataclasses.replace(run, checkpoint_every_steps=1)
    for _ in range(2):
        with pytest.raises(TrainingError) as error:
            fit_on_one(task, run, tmp_path)
        good, spoiled = list_steps(tmp_path / "checkpoints")
        assert f"The checkpoint of step {good} is good" in str(error.value)
        assert f"From that of step {spoiled} no step could be made" in str(error.value)


def test_without_a_good_checkpoint_none_is_named(tmp_path):
    with pytest.raises(TrainingError, match="There is no checkpoint from which a step"):
        fit_on_one(broken_at(Toy(), *range(1, 100)), frequent_run(), tmp_path)
    assert not list_steps(tmp_path / "checkpoints")


def test_a_run_that_ends_while_steps_are_skipped_has_failed(tmp_path):
    task = broken_at(Toy(), 11, 12)
    run = toy_run(checkpoint_every_steps=2)
    for _ in range(2):
        with pytest.raises(
            TrainingError, match="The run ends at step 12, but the last"
        ):
            fit_on_one(task, run, tmp_path)
    assert list_steps(tmp_path / "checkpoints")[-1] == 10
    assert not (tmp_path / "report" / "summary.md").exists()


def test_a_run_whose_evaluation_is_not_finite_has_failed(tmp_path):
    """And the checkpoint from before stays."""

    def evaluate_badly(model, batch):
        return {**Toy().evaluate(model, batch), "loss": batch["x"][:, 0] * jnp.nan}

    task = Wrapper(Toy(), evaluate=evaluate_badly)
    run = toy_run(checkpoint_every_steps=3)
    for _ in range(2):
        with pytest.raises(
            TrainingError, match="at step 4 gives a loss of nan"
        ) as error:
            fit_on_one(task, run, tmp_path)
    assert "The checkpoint of step 3 is good" in str(error.value)
    assert list_steps(tmp_path / "checkpoints") == [3]


def test_what_was_due_while_steps_were_skipped_is_made_up_for(tmp_path):
    """The evaluation of step 4 is that of step 6, and saved with it."""
    task = broken_at(Toy(), 4, 5)
    fit_on_one(task, toy_run(), tmp_path)
    assert [row["step"] for row in read_rows(tmp_path, "eval")] == [6, 8, 12]
    assert list_steps(tmp_path / "checkpoints")[-2:] == [8, 12]


def test_a_run_stopped_while_steps_are_skipped_saves_nothing(tmp_path):
    task = broken_at(Toy(), 4, 5, 6)

    class Stop:
        is_received = False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def reached(self, step):
            return step == 5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litv2_jax.training.loop.StopRequest", Stop)
        run = toy_run(checkpoint_every_steps=3)
        with pytest.raises(StoppedError, match="at step 5 of 12, without a checkpoint"):
            fit_on_one(task, run, tmp_path)
    assert list_steps(tmp_path / "checkpoints") == [3]


def test_steps_skipped_before_a_restart_count(tmp_path):
    """Steps 4 to 7 fail; a run that may skip three is stopped in between."""
    task, run = broken_at(Toy(), *range(4, 100)), frequent_run()
    run = dataclasses.replace(run, max_skipped_steps=3)

    class KilledError(Exception):
        pass

    def train_batches(start_step):
        batches = task.train_batches(start_step)
        for _ in range(start_step, 6):
            yield next(batches)
        raise KilledError

    with pytest.raises(KilledError):
        fit_on_one(Wrapper(task, train_batches=train_batches), run, tmp_path)
    assert len(read_rows(tmp_path, "skipped")) == 3
    for count in (4, 5):
        with pytest.raises(TrainingError, match=f"{count} steps in a row have been"):
            fit_on_one(task, run, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path, "skipped")] == [4]


def test_a_finished_run_with_a_loss_that_is_not_finite_fails_again(tmp_path):
    """One of a version that let it pass."""
    workdir = unpack_format1(tmp_path) / "run"
    (workdir / "report").mkdir()
    (workdir / "report" / "summary.md").touch()
    run = toy_run(epochs=2.0)
    assert fit_on_one(Toy(hidden=4), run, workdir)["top1"] == 0.425
    metrics = workdir / "checkpoints" / "8" / "metrics" / "metrics"
    metrics.write_text('{"top1": 0.425, "loss": NaN}')
    with pytest.raises(TrainingError, match="at step 8 gives a loss of nan"):
        fit_on_one(Toy(hidden=4), run, workdir)


class Slope(nnx.Module):
    def __init__(self, weight):
        self.weight = nnx.Param(jnp.full(3, weight))
        self.mean = nnx.BatchStat(jnp.zeros(3))


class GivenSlope:
    """A task whose gradients and statistics are what its batches say."""

    def augment(self, batch, key):
        return batch

    def loss(self, model, batch, rngs):
        model.mean[...] = batch["mean"]
        return (model.weight[...] * batch["slope"]).sum(), {}


def step_once(weight=1.0, slope=1.0, mean=0.0, rate=0.1):
    """Returns the state before a step, that after it, and whether it was skipped."""
    graphdef, params, stats = nnx.split(Slope(weight), nnx.Param, nnx.BatchStat)
    optimizer = optax.with_extra_args_support(optax.adam(rate))
    step = make_train_step(
        graphdef, GivenSlope(), optimizer, optax.constant_schedule(rate)
    )
    state = TrainState.begin(*map(nnx.to_pure_dict, (params, stats)), optimizer)
    # The step overwrites what it is given.
    before = jax.tree.map(np.array, state)
    batch = {"slope": jnp.full(3, slope), "mean": jnp.array([0.0, mean, 0.0])}
    after, scalars = step(state, batch, jax.random.key(0))
    assert int(after.step) == 1
    return before, after, bool(scalars["skipped"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"slope": NAN},
        # Its square, which the moments would hold, is infinite.
        {"slope": 1e30, "weight": 1e-30},
        {"mean": INF},
        {"rate": INF},
        {"rate": NAN},
        {"weight": 1e30, "slope": 0.0},
    ],
)
def test_a_step_that_is_skipped_changes_nothing_but_its_number(wrong):
    """Neither weights nor statistics nor moments, whatever is not finite."""
    before, after, is_skipped = step_once(**wrong)
    assert is_skipped
    kept = dataclasses.replace(after, step=before.step)
    chex.assert_trees_all_equal(kept, before)


def test_a_step_whose_numbers_are_finite_is_applied():
    before, after, is_skipped = step_once(mean=2.0)
    assert not is_skipped
    assert (np.asarray(after.params["weight"]) < before.params["weight"]).all()
    assert after.stats["mean"][1] == 2
