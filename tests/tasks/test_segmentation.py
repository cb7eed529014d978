"""Semantic segmentation through the one training loop, on drawn shapes."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from configs import ade20k_semantic_fpn, demo
from litv2_jax import predict, tasks
from litv2_jax.augment.normalize import normalize, normalize_inside
from litv2_jax.checkpoints import save_weights
from litv2_jax.models.state import split_state
from litv2_jax.ops.resize import resize_bilinear
from litv2_jax.settings import ConfigError
from litv2_jax.training.devices import Devices
from litv2_jax.training.evaluation import evaluate
from litv2_jax.training.loop import fit
from litv2_jax.training.optimizer import create_schedule
from litv2_jax.training.run_settings import RunSettings
from tests.reference import read_json
from tests.training.test_loop import InterruptedError, read_rows, stop_before


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def recipe(data_dir, **changes) -> dict:
    """32 crops of 48 pixels, two epochs of four updates."""
    config = demo.get_config("shapes")
    config.epochs, config.eval_every_epochs = 2.0, 1.0
    config.batch_size, config.log_every_steps = 8, 1
    config.data.data_dir = str(data_dir)
    config.data.train_split, config.data.eval_split = "train[:32]", "test[:12]"
    config.data.crop_size = 48
    # One canvas, and so one program, for images of any size.
    config.data.eval_multiple = 128
    config.model.sizes.embed_dim = 8
    config.model.sizes.depths = (1, 1, 1, 1)
    config.model.sizes.fpn_dim = config.model.sizes.head_dim = 16
    config.model.drop_path_rate = 0.2
    config.optimizer.warmup_epochs = 1.0
    config.update_from_flattened_dict(changes)
    return config.to_dict()


def create(config: dict):
    run, rest = RunSettings.split(config)
    task = tasks.create_task(run.task, rest, batch_size=run.batch_size, seed=run.seed)
    return run, task


def one_device() -> Devices:
    """Returns where runs take the least time to compile; others have several."""
    return Devices(jax.devices()[:1])


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
        fit(stop_before(task, 7), run, tmp_path, one_device())
    assert fit(task, run, tmp_path, one_device()) == results
    assert read_rows(tmp_path, "train") == read_rows(workdir, "train")


def test_the_saved_weights_score_what_was_reported(whole, capsys, monkeypatch):
    # By the program of the run.
    monkeypatch.setattr("litv2_jax.training.evaluation.Devices", one_device)
    _, task, workdir, results = whole
    scores = evaluate(task, workdir / "checkpoints" / "8")
    assert scores["mIoU"] == results["mIoU"]
    assert scores["num_images"] == 12
    assert "| background | " in capsys.readouterr().out


def test_the_report_has_pictures_and_the_score_of_each_class(whole):
    report = whole[2] / "report"
    for name in ("augmented", "curves", "predictions"):
        pixels = np.asarray(Image.open(report / f"{name}.png").convert("RGB"))
        assert pixels.std() > 20
    assert "| triangle | " in (report / "summary.md").read_text()


def test_scores_are_those_of_each_image_by_itself(whole):
    """Batches, and the canvas that padding makes, change nothing."""
    _, task, workdir, _ = whole
    model = litv2_jax.create_model(
        **task.description["model"], rngs=nnx.Rngs(0), weights=workdir
    )

    @jax.jit
    def run(model, batch):
        return task.evaluate(model, batch), task.predict(model, batch)["prediction"]

    @functools.partial(jax.jit, static_argnums=2)
    def classify(model, images, size):
        logits = resize_bilinear(model(images), images.shape[1:3])
        return resize_bilinear(logits, size).argmax(-1)

    num_pixels, num_images, shapes = 0, 0, set()
    for batch in task.eval_batches():
        outputs, predictions = map(jax.device_get, run(model, batch))
        shapes.add(batch["image"].shape)
        confusion = np.zeros((6, 6), int)
        for i in np.flatnonzero(batch["valid"]):
            height, width = batch["label_size"][i]
            label = batch["label"][i, :height, :width]
            guess = predictions[i, :height, :width]
            np.add.at(confusion, (label, guess), 1)
            num_pixels += label.size
            num_images += 1
        # One of each batch, whose size takes a program of its own.
        height, width = batch["size"][0]
        alone = normalize(batch["image"][:1, :height, :width])
        expected = classify(model, alone, tuple(batch["label_size"][0].tolist()))
        guess = predictions[:1, : expected.shape[1], : expected.shape[2]]
        # Two classes may lie closer together than float32 tells apart.
        assert (guess == expected).mean() > 0.999
        np.testing.assert_array_equal(outputs["confusion"], confusion)
    assert num_images == 12
    assert num_pixels > 12 * 80 * 80
    # Twelve sizes of images, and one program.
    assert shapes == {(8, 128, 128, 3)}


def test_padding_is_zero_after_normalisation():
    images = np.full((2, 4, 6, 3), 200, np.uint8)
    result = normalize_inside(images, np.array([[4, 6], [3, 2]]))
    np.testing.assert_array_equal(result[0], normalize(images)[0])
    np.testing.assert_array_equal(result[1, :3, :2], normalize(images)[1, :3, :2])
    assert not result[1, 3:].any()
    assert not result[1, :, 2:].any()


def test_training_begins_with_the_backbone_of_a_classifier(
    whole, data_dir, tmp_path, capsys
):
    run, task, _, _ = whole
    sizes = {k: v for k, v in task.description["model"].items() if k != "name"}
    sizes = {k: sizes[k] for k in ("embed_dim", "depths", "num_heads")}
    classifier = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(5), **sizes)
    save_weights(tmp_path / "w", *split_state(classifier), {"model": {}})
    run = dataclasses.replace(run, weights=str(tmp_path / "w"))
    with pytest.raises(InterruptedError):
        fit(stop_before(task, 1), run, tmp_path / "run", one_device())
    assert "Only the backbone is taken" in capsys.readouterr().out

    sizes = recipe(data_dir)["model"]["sizes"] | {"embed_dim": 16}
    config = recipe(data_dir) | {"weights": str(tmp_path / "w")}
    config["model"] = {**config["model"], "sizes": sizes}
    run, task = create(config)
    with pytest.raises(ConfigError, match="does not fit the model"):
        fit(task, run, tmp_path / "other", one_device())


# Each size of a picture takes a program of its own.
@pytest.mark.parametrize(
    "sizes", [[(37, 90)], pytest.param([(37, 90), (420, 301)], marks=pytest.mark.slow)]
)
def test_predict_draws_the_classes_of_any_picture(whole, tmp_path, capsys, sizes):
    paths = []
    for number, size in enumerate(sizes, start=1):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    picture = tmp_path / "out.png"
    arguments = ["--weights", whole[2], "--picture", picture, *paths]
    predict.main([str(argument) for argument in arguments])

    output = capsys.readouterr().out
    shares = [float(s.split("%")[0]) for s in output.splitlines() if "%" in s]
    assert sum(shares) == pytest.approx(100 * len(sizes), abs=0.1)
    drawn = list(tmp_path.glob("out*.png"))
    assert len(drawn) == len(sizes)
    for path in drawn:
        assert np.asarray(Image.open(path).convert("RGB")).std() > 20
    names, maps = predict.segment(whole[2], [Image.open(path) for path in paths])
    assert names[:2] == ["background", "circle"]
    assert [x.shape for x in maps] == sizes


def test_a_classifiers_recipe_is_told_which_models_there_are(data_dir):
    config = recipe(data_dir)
    config["model"] = {**config["model"], "name": "litv2_s", "sizes": {}}
    with pytest.raises(ConfigError, match="there are semantic_fpn_litv2_s, "):
        create(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.zero_label": "void"}, "zero_label is 'void'; use ignored or class"),
        ({"data.scale": (48, 64)}, "scale is .*; give the longest side"),
        ({"data.crop_size": 0}, "crop_size is 0 but must be within 29 and 4,096"),
        ({"data.flip": 1.5}, "flip is 1.5 but must be within 0 and 1"),
        ({"optimizer.schedule": "line"}, "schedule is 'line'; use cosine or poly"),
        ({"optimizer.groups": (("(", 1.0, 1.0),)}, "which is not a regular expression"),
    ],
)
def test_impossible_settings_are_refused(data_dir, change, message):
    def check():
        run, _ = create(recipe(data_dir, **change))
        run.check(num_devices=8)

    with pytest.raises(ConfigError, match=message):
        check()


@pytest.mark.parametrize("model", ["litv2_s", "litv2_m", "litv2_b"])
def test_the_recipe_is_the_published_one(model):
    published = read_json("dense/recipes.json")["semantic_fpn"]
    common = published["common"]
    config = ade20k_semantic_fpn.get_config(model)
    run, _ = RunSettings.split(config.to_dict())

    backbone = published[model[-1]]["backbone"]
    assert config.model.drop_path_rate == backbone["drop_path_rate"]
    assert config.batch_size == common["samples_per_gpu"] * common["gpus_in_readme"]
    assert config.batch_norm_group_size == common["samples_per_gpu"]
    steps_per_epoch = 20_210 // config.batch_size
    num_steps = round(config.epochs * steps_per_epoch)
    assert num_steps == common["runner"]["max_iters"]
    interval = round(config.eval_every_epochs * steps_per_epoch)
    assert interval == common["evaluation"]["interval"]

    settings = run.optimizer
    assert settings.learning_rate == common["optimizer"]["lr"]
    assert settings.weight_decay == common["optimizer"]["weight_decay"]
    # Everything decays, and all at one rate.
    assert (settings.groups, settings.clip_norm) == ((), 0)
    schedule = create_schedule(
        settings,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )
    for step, rate in published["lr_at_iter"].items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-5)

    pipeline = {step["type"]: step for step in common["train_pipeline"]}
    assert config.data.scale == tuple(pipeline["Resize"]["img_scale"])
    assert config.data.ratio == tuple(pipeline["Resize"]["ratio_range"])
    assert (config.data.crop_size,) * 2 == tuple(pipeline["RandomCrop"]["crop_size"])
    assert config.data.max_class_share == pipeline["RandomCrop"]["cat_max_ratio"]
    assert config.data.flip == pipeline["RandomFlip"]["prob"]
    assert pipeline["LoadAnnotations"]["reduce_zero_label"]
    assert config.data.zero_label == "ignored"


def test_the_checkpoint_describes_its_model(whole):
    metadata = json.loads(
        (whole[2] / "checkpoints" / "8" / "_CHECKPOINT_METADATA").read_text()
    )
    stored = metadata["custom_metadata"]
    assert stored["model"]["name"] == "semantic_fpn_litv2_s"
    assert stored["class_names"][0] == "background"
    assert stored["input"] == {"scale": [128, 96], "multiple": 128}
