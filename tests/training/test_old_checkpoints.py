"""What earlier versions wrote is still read."""

import zipfile
from pathlib import Path

import chex
import jax
import pytest
from flax import nnx

from litv2_jax.checkpoints import (
    find_checkpoint,
    list_steps,
    manifest,
    read_description,
)
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from tests.reference import GOLDEN
from tests.training.test_loop import read_weights
from tests.training.toy import Toy, toy_run


def unpack_format1(folder: Path) -> Path:
    """Returns a folder with `run` and `weights`, written by the first version.

    `run` is Toy(hidden=4) after 2 epochs, `weights` is a new Toy(hidden=4).
    """
    with zipfile.ZipFile(GOLDEN / "format1.zip") as archive:
        archive.extractall(folder / "format1")
    return folder / "format1"


def test_checkpoints_of_the_first_format_are_read(tmp_path):
    folder = unpack_format1(tmp_path)
    task = Toy(hidden=4)
    weights, _ = read_weights(task, folder / "weights")
    expected, _ = split_state(task.build(nnx.Rngs(5)))
    chex.assert_trees_all_close(weights, expected, rtol=1e-6)

    assert find_checkpoint(folder / "run").name == "8"
    assert read_description(find_checkpoint(folder / "run"))["model"] == {
        "name": "toy",
        "hidden": 4,
    }
    one = Devices(jax.devices()[:1])
    assert evaluate(task, folder / "run")["top1"] == pytest.approx(0.425)
    # It goes on, with digests from then on.
    fit(task, toy_run(), folder / "run", one)
    assert list_steps(folder / "run" / "checkpoints") == [8, 12]
    assert manifest.read_manifest(folder / "run" / "checkpoints" / "12").arrays


def test_the_step_of_an_old_checkpoint_is_compared(tmp_path):
    folder = unpack_format1(tmp_path)
    checkpoints = folder / "run" / "checkpoints"
    (checkpoints / "8").rename(checkpoints / "12")
    with pytest.raises(ConfigError, match="12 is damaged: it is that of step 8"):
        fit(Toy(hidden=4), toy_run(), folder / "run", Devices(jax.devices()[:1]))
