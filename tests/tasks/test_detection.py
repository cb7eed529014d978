"""Detection through the one training loop, on drawn shapes."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from configs import demo_detection
from litv2_jax import tasks
from litv2_jax.settings import ConfigError
from litv2_jax.train import run_command
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from litv2_jax.training.run_settings import RunSettings
from tests.data.detected import Objects, make_record
from tests.programs import Program
from tests.tasks.test_segmentation import create, one_device
from tests.training.test_faults import last_step, wait_until
from tests.training.test_loop import InterruptedError, read_rows, stop_before


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def recipe(data_dir, *, model="retinanet_litv2_s", **changes) -> dict:
    """Sixteen images on a canvas of 64 pixels, two epochs of two steps."""
    config = demo_detection.get_config()
    config.epochs, config.eval_every_epochs = 2.0, 1.0
    config.batch_size, config.log_every_steps = 8, 1
    config.data.data_dir = str(data_dir)
    config.data.train_split, config.data.eval_split = "train[:16]", "test[:12]"
    config.data.scale, config.data.canvases = (64, 64), ((64, 64),)
    config.data.eval_multiple = 64
    config.model.name = model
    config.model.sizes.embed_dim = 8
    config.model.sizes.depths = (1, 1, 1, 1)
    config.model.sizes.num_heads = (1, 1, 2, 2)
    config.model.sizes.fpn_dim = config.model.sizes.head_dim = 16
    config.model.sizes.num_convs = 1
    if model.startswith("mask"):
        config.model.sizes.hidden_dim = 32
        config.detector.num_proposals, config.detector.num_samples = 40, 16
    config.optimizer.warmup_epochs = 1.0
    config.update_from_flattened_dict(changes)
    return config.to_dict()


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """A run on one device that was never stopped: settings, task, workdir."""
    run, task = create(recipe(data_dir))
    workdir = tmp_path_factory.mktemp("whole")
    results = fit(task, run, workdir, one_device())
    return run, task, workdir, results


@pytest.mark.slow
def test_resuming_equals_never_stopping_bit_for_bit(whole, tmp_path):
    run, task, workdir, results = whole
    with pytest.raises(InterruptedError):
        fit(stop_before(task, 4), run, tmp_path, one_device())
    assert fit(task, run, tmp_path, one_device()) == results
    assert read_rows(tmp_path, "train") == read_rows(workdir, "train")


def test_the_saved_weights_score_what_was_reported(
    whole, tmp_path, capsys, monkeypatch
):
    # By the program of the run.
    monkeypatch.setattr("litv2_jax.training.evaluation.Devices", one_device)
    _, task, workdir, results = whole
    scores = evaluate(task, workdir / "checkpoints" / "4", tmp_path)
    assert scores["box_AP"] == results["box_AP"]
    assert scores["num_images"] == 12
    output = capsys.readouterr().out
    assert "| triangle | " in output
    assert f"Wrote {tmp_path / 'detections.json'}." in output
    found = json.loads((tmp_path / "detections.json").read_text())
    assert {each["category_id"] for each in found} <= {1, 2, 3, 4, 5}
    assert {each["image_id"] for each in found} <= set(range(12))


def test_the_report_has_pictures_and_the_score_of_each_class(whole):
    report = whole[2] / "report"
    for name in ("augmented", "curves", "predictions"):
        pixels = np.asarray(Image.open(report / f"{name}.png").convert("RGB"))
        assert pixels.std() > 20
    assert "| triangle | " in (report / "summary.md").read_text()
    rows = read_rows(whole[2], "train")
    assert all(row["class_loss"] > 0 and row["box_loss"] > 0 for row in rows)


@pytest.mark.slow
def test_a_killed_demo_ends_bit_for_bit_the_same(tmp_path):
    """Kills -9 in the middle of an epoch, by the steps that are logged."""
    start_demo(tmp_path / "whole").wait()
    killed = tmp_path / "killed"
    for step in (3, 7):
        process = start_demo(killed)
        wait_until(lambda: last_step(killed) >= step, process)  # noqa: B023
        process.kill()
    assert last_step(killed) < 12
    assert start_demo(killed).wait() == 0
    for kind in ("train", "eval"):
        rows = read_rows(killed, kind)
        assert rows
        assert rows == read_rows(tmp_path / "whole", kind)
    # Of weights, moments and statistics.
    arrays = [read_digests(tmp_path / name) for name in ("whole", "killed")]
    assert len(arrays[0]) > 100
    assert arrays[0] == arrays[1]


def read_digests(workdir):
    path = workdir / "checkpoints" / "12" / "_CHECKPOINT_METADATA"
    return json.loads(path.read_text())["custom_metadata"]["arrays"]


def start_demo(workdir):
    """Starts 12 steps of `make demo-detection`, with checkpoints between epochs."""
    changes = {
        "batch_size": 8,
        "epochs": 2.0,
        "eval_every_epochs": 1.0,
        "checkpoint_every_steps": 4,
        "log_every_steps": 1,
        "data.data_dir": workdir.parent / "data",
        "data.train_split": "train[:48]",
        "data.eval_split": "test[:8]",
        "optimizer.warmup_epochs": 1.0,
    }
    options = [f"--config.{name}={value}" for name, value in changes.items()]
    recipe = "--config=configs/demo_detection.py"
    return Program(run_command, recipe, f"--workdir={workdir}", *options)


@pytest.mark.slow
def test_masks_are_learned_and_scored_in_bfloat16(data_dir, tmp_path):
    changes = {"model.dtype": "bfloat16", "epochs": 1.0, "batch_size": 2}
    changes |= {"data.train_split": "train[:2]", "data.eval_split": "test[:2]"}
    run, task = create(recipe(data_dir, model="mask_rcnn_litv2_s", **changes))
    results = fit(task, run, tmp_path, one_device())
    (row,) = read_rows(tmp_path, "train")
    names = {"rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss"}
    assert names <= set(row)
    assert row["loss"] == pytest.approx(sum(row[name] for name in names), rel=1e-5)
    assert row["mask_loss"] > 0.1
    assert 0 <= results["mask_AP"] <= 1
    table = (tmp_path / "report" / "summary.md").read_text()
    assert "| class | box AP | box AP50 | mask AP | " in table


def create_from(records, monkeypatch, data_dir, **changes):
    source = Objects(records)
    monkeypatch.setattr(
        "litv2_jax.tasks.detection.open_detection_source", lambda *_: source
    )
    return create(recipe(data_dir, **changes))[1]


def test_too_many_objects_are_refused(monkeypatch, data_dir):
    records = [make_record(40, 60, i, num_objects=i + 1) for i in range(9)]
    with pytest.raises(ConfigError, match="Image 18 .* has 9 objects, .* is 8: set it"):
        create_from(records, monkeypatch, data_dir)
    changes = {"data.max_objects": 9}
    assert create_from(records, monkeypatch, data_dir, **changes).steps_per_epoch == 2


def test_masks_that_are_missing_are_counted(monkeypatch, data_dir):
    records = [make_record(40, 60, i) for i in range(8)]
    records[3]["has_mask"][:] = False
    with pytest.raises(ConfigError, match="2 of 16 objects to train on have no mask"):
        create_from(records, monkeypatch, data_dir, model="mask_rcnn_litv2_s")
    create_from(records, monkeypatch, data_dir)


def test_scoring_opens_the_evaluation_split_alone(monkeypatch, data_dir):
    """More objects than training has room for, or no masks, do not matter then."""
    records = [make_record(40, 60, i, num_objects=9) for i in range(3)]
    records[0]["has_mask"][:] = False
    splits = []

    def open_split(name, split, data_dir):
        splits.append(split)
        return Objects(records)

    monkeypatch.setattr("litv2_jax.tasks.detection.open_detection_source", open_split)
    run, rest = RunSettings.split(recipe(data_dir, model="mask_rcnn_litv2_s"))
    options = {"batch_size": run.batch_size, "seed": run.seed}
    task = tasks.create_task(run.task, rest, scored=["a", "b", "c"], **options)
    assert splits == ["test[:12]"]
    batches = list(task.eval_batches())
    assert sum(int(batch["valid"].sum()) for batch in batches) == 3


@pytest.mark.slow
def test_images_without_objects_have_finite_losses(monkeypatch, data_dir):
    records = [make_record(40, 60, i, num_objects=0) for i in range(2)]
    changes = {"data.empty_images": "kept", "batch_size": 2}
    model = "mask_rcnn_litv2_s"
    task = create_from(records, monkeypatch, data_dir, model=model, **changes)
    built = nnx.view(task.build(nnx.Rngs(0)), **task.train_view())
    batch = task.augment(next(iter(task.train_batches(0))), jax.random.key(0))
    loss, scalars = jax.jit(task.loss)(built, batch, nnx.Rngs(0))
    assert np.isfinite(loss)
    assert scalars["box_loss"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.scale": (64, 96)}, "scale is .*; give the longest side"),
        ({"data.canvases": ((64, 90),)}, "canvases has 90, .* multiples of 32: use 96"),
        ({"data.canvases": ()}, "canvases is empty; give a height and a width"),
        ({"data.eval_multiple": 40}, "eval_multiple has 40, but detectors need"),
        ({"data.empty_images": "some"}, "empty_images is 'some'; use skipped or kept"),
        ({"data.train_split": "val"}, "shapes has no split 'val'"),
        ({"detector.loss_group_size": 3}, "loss_group_size is 3, which does not div"),
        ({"model.name": "litv2_s"}, "no model for this task; there are retinanet_litv"),
        ({"batch_size": 32}, "batch_size is 32, more than the 16 images there are"),
    ],
)
def test_impossible_settings_are_refused(data_dir, change, message):
    with pytest.raises(ConfigError, match=message):
        create(recipe(data_dir, **change))


def test_a_task_without_data_is_as_if_for_coco():
    from configs import coco_mask_rcnn

    config = coco_mask_rcnn.get_config("litv2_s")
    run, rest = RunSettings.split(config.to_dict())
    task = tasks.create_task(
        run.task, rest, batch_size=16, seed=run.seed, with_data=False
    )
    assert (task.num_train_examples, task.steps_per_epoch) == (117_266, 7329)
    assert len(task.class_names) == 80
    batch = task.example_batch()
    assert batch["image"].shape == (16, 800, 1344, 3)
    assert batch["mask_places"].shape == (16, 100, 5)


def test_a_predictors_class_names_are_in_the_checkpoint(whole):
    assert litv2_jax.list_models("detection")
    assert whole[1].description["class_names"][:2] == ["circle", "square"]
    assert whole[1].description["input"] == {"scale": (64, 64), "multiple": 64}
