"""Stopping and resuming equals never stopping, on any devices, for each task."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from configs import demo
from litv2_jax import tasks
from litv2_jax.checkpoints import load_weights
from litv2_jax.models.state import split_state
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from litv2_jax.training.run_settings import RunSettings
from tests.training.test_loop import InterruptedError, read_rows, stop_before
from tests.training.toy import draw_no_curves


def digits(data_dir) -> dict:
    """64 digits at 32 pixels, two epochs of four updates, everything drawn."""
    config = demo.get_config()
    config.epochs, config.eval_every_epochs = 2.0, 1.0
    config.batch_size, config.log_every_steps = 16, 1
    config.data.data_dir = str(data_dir)
    config.data.train_split, config.data.eval_split = "train[:64]", "test[:40]"
    config.data.image_size = 32
    config.model.sizes.embed_dim = 8
    config.model.sizes.depths = (1, 1, 1, 1)
    config.model.drop_path_rate = 0.2
    config.augment.mixup, config.augment.cutmix = 0.8, 1.0
    config.optimizer.warmup_epochs = 1.0
    return config.to_dict()


def create(config: dict):
    run, rest = RunSettings.split(config)
    task = tasks.create_task(run.task, rest, batch_size=run.batch_size, seed=run.seed)
    return run, task


def two_devices() -> Devices:
    return Devices(jax.devices()[:2])


@pytest.fixture(scope="module", params=[digits])
def whole(request, tmp_path_factory):
    """A run on two devices that was never stopped: settings, task, workdir, results."""
    config = request.param(tmp_path_factory.mktemp("data"))
    run, task = create(config)
    workdir = tmp_path_factory.mktemp("whole")
    results = fit(task, run, workdir, two_devices())
    return run, task, workdir, results


def test_resuming_equals_never_stopping_bit_for_bit(whole, tmp_path, monkeypatch):
    # Drawn once already.
    monkeypatch.setattr("litv2_jax.training.log.draw_curves", draw_no_curves)
    run, task, workdir, results = whole
    with pytest.raises(InterruptedError):
        fit(stop_before(task, 7), run, tmp_path, two_devices())
    assert fit(task, run, tmp_path, two_devices()) == results

    assert read_rows(tmp_path, "train") == read_rows(workdir, "train")
    shapes = split_state(nnx.eval_shape(lambda: task.build(nnx.Rngs(0))))
    for ours, theirs in zip(
        jax.tree.leaves(load_weights(tmp_path / "checkpoints" / "8", *shapes)),
        jax.tree.leaves(load_weights(workdir / "checkpoints" / "8", *shapes)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 8])
def test_any_number_of_devices_gives_the_same_losses(whole, tmp_path, count):
    """Batch statistics, mixing and dropped paths included, to float32 noise."""
    run, task, workdir, results = whole
    other = fit(task, run, tmp_path, Devices(jax.devices()[:count]))

    expected = [row["loss"] for row in read_rows(workdir, "train")]
    losses = [row["loss"] for row in read_rows(tmp_path, "train")]
    assert len(losses) == 8
    # The first is of the forward pass alone; Adam magnifies the noise from there on.
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert other["loss"] == pytest.approx(results["loss"], rel=1e-3)


def test_the_saved_weights_score_what_was_reported(whole, monkeypatch):
    # By the program of the run.
    monkeypatch.setattr("litv2_jax.training.evaluation.Devices", two_devices)
    _, task, workdir, results = whole
    scores = evaluate(task, workdir / "checkpoints" / "8")
    assert scores["top1"] == results["top1"]
    assert scores["loss"] == pytest.approx(results["loss"], rel=1e-6)


def test_the_report_is_drawn(whole):
    _, _, workdir, _ = whole
    # Spectra of this model have few squares.
    for name, least in (
        ("curves.png", 10_000),
        ("predictions.png", 10_000),
        ("frequencies.png", 2_000),
    ):
        assert f"]({name})" in (workdir / "report" / "summary.md").read_text()
        data = (workdir / "report" / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > least


def test_the_checkpoint_describes_its_model(whole):
    workdir = whole[2]
    metadata = json.loads(
        (workdir / "checkpoints" / "8" / "_CHECKPOINT_METADATA").read_text()
    )
    stored = metadata["custom_metadata"]
    assert stored["class_names"] == list("0123456789")
    assert stored["model"]["num_classes"] == 10
    assert stored["input"] == {"image_size": 32, "crop": 1.0, "exif": "ignored"}
