"""A checkpoint and the data may name their classes in another order, or differ."""

import numpy as np
import pytest

from litv2_jax.models.outputs import reorder_outputs
from litv2_jax.settings import ConfigError
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from tests.training.toy import Toy, ToyModel, toy_run

NAMES = ["first", "sec$ond$"]


class NamedModel(ToyModel):
    def reorder_classes(self, order):
        reorder_outputs(self.head, order)


class NamedToy(Toy):
    """The toy whose two classes have names; in the other order, labels are, too."""

    def __init__(self, names):
        super().__init__()
        self.description["class_names"] = names
        self._is_reversed = names == NAMES[::-1]

    def build(self, rngs):
        return NamedModel(self._hidden, rngs=rngs)

    def eval_batches(self):
        for batch in super().eval_batches():
            label = batch["label"]
            yield {**batch, "label": 1 - label if self._is_reversed else label}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run, and its last evaluation."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, fit(NamedToy(NAMES), toy_run(epochs=2.0), workdir)


def test_scoring_matches_classes_by_name(run, capsys):
    workdir, _ = run
    scores = evaluate(NamedToy(NAMES), workdir / "checkpoints" / "8")
    assert "another order" not in capsys.readouterr().out
    reordered = evaluate(NamedToy(NAMES[::-1]), workdir / "checkpoints" / "8")
    assert "same classes in another order: matched by name" in capsys.readouterr().out
    for name in ("top1", "loss"):
        np.testing.assert_allclose(reordered[name], scores[name], rtol=1e-6)


def test_scoring_of_a_checkpoint_without_names_says_that_it_trusts_the_order(
    tmp_path, capsys
):
    task = Toy()
    fit(task, toy_run(epochs=1.0), tmp_path)
    evaluate(NamedToy(NAMES), tmp_path)
    assert "does not name its classes: taken to be those of" in capsys.readouterr().out


@pytest.mark.parametrize("names", [["first", "third"], ["first", "sec$ond$", "third"]])
def test_other_classes_are_neither_scored_nor_trained_on(run, names):
    workdir, _ = run
    for use in (
        lambda task: evaluate(task, workdir),
        lambda task: fit(task, toy_run(), workdir),
    ):
        with pytest.raises(ConfigError) as found:
            use(NamedToy(names))
        message = str(found.value)
        assert "2 classes (first, sec$ond$), but the data have" in message
        assert "only in the data: third" in message


def test_a_run_does_not_go_on_with_its_classes_in_another_order(run):
    with pytest.raises(ConfigError, match="cannot go on with other classes.*order dif"):
        fit(NamedToy(NAMES[::-1]), toy_run(), run[0])


def test_a_run_goes_on_with_its_own_classes(run):
    workdir, results = run
    assert fit(NamedToy(NAMES), toy_run(epochs=2.0), workdir) == results
