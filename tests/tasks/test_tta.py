"""Test-time augmentation, against the mean computed by hand."""

import functools
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import litv2_jax
from configs import cifar, demo
from litv2_jax import tasks
from litv2_jax.augment.normalize import normalize
from litv2_jax.data.transforms.segmentation import decode_pair
from litv2_jax.ops.resize import resize_bilinear
from litv2_jax.settings import ConfigError
from litv2_jax.tasks import segmentation_settings
from litv2_jax.training.run_settings import RunSettings
from tests.data.annotated import make_pair, write_tree
from tests.reference import fill
from tests.test_finetune import SIZES, draw
from tests.test_train import start

# Compiling takes longer than running.
FAST = {"xla_backend_optimization_level": 0}
RATIOS = (0.5, 1.0, 1.5)
PAIRS = {"a": make_pair(45, 70, 0), "b": make_pair(61, 50, 1)}


def create(config, **options):
    run, rest = RunSettings.split(config.to_dict())
    options = {"batch_size": run.batch_size, "seed": run.seed, **options}
    return tasks.create_task(run.task, rest, **options)


def segment(folder, tta: str):
    """Returns a task on two images of a folder."""
    config = demo.get_config("shapes")
    config.batch_size, config.eval.tta = 2, tta
    config.data.name, config.data.data_dir = "folder", str(folder)
    config.data.train_split = config.data.eval_split = "val"
    # One canvas, larger than every view of the two images.
    config.data.scale, config.data.eval_multiple = (112, 60), 192
    config.data.zero_label = "class"
    config.model.sizes.update(embed_dim=8, depths=(1, 1, 1, 1), fpn_dim=8, head_dim=8)
    return create(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    write_tree(folder, "val", PAIRS)
    (folder / "classes.txt").write_text("\n".join("abcdef"))
    return folder


@pytest.fixture(scope="module")
def segmenter(folder):
    return fill(lambda: segment(folder, "none").build(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def compute_alone(segmenter):
    """Computes probabilities of an image, a factor on its scale, mirrored or not."""

    @functools.partial(jax.jit, static_argnums=2, compiler_options=FAST)
    def compute(model, image, size):
        logits = resize_bilinear(model(image), image.shape[1:3])
        return jax.nn.softmax(resize_bilinear(logits, size))[0]

    @functools.cache
    def compute_alone(name, ratio, is_mirrored):
        image, label = decode_pair(PAIRS[name], "class")
        height, width = label.shape
        # mmcv's rescaling, to fit in a multiple of (112, 60).
        factor = min(112 * ratio / max(label.shape), 60 * ratio / min(label.shape))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        pixels = normalize(cv2.resize(image, size)[None])
        step = -1 if is_mirrored else 1
        x = compute(segmenter, pixels[:, :, ::step], (height, width))
        return np.asarray(x)[:, ::step]

    return compute_alone


@pytest.mark.parametrize(
    ("tta", "ratios"),
    [
        pytest.param("none", (1.0,), marks=pytest.mark.slow),
        ("flip", (1.0,)),
        pytest.param("multiscale", RATIOS, marks=pytest.mark.slow),
    ],
)
def test_segments_by_the_mean_of_the_views_alone(
    folder, segmenter, compute_alone, tta, ratios, monkeypatch
):
    monkeypatch.setitem(segmentation_settings.TTA, "multiscale", RATIOS)
    task = segment(folder, tta)
    (batch,) = task.eval_batches()
    batch = {n: x for n, x in batch.items() if n != "num_unreadable"}
    run = functools.partial(jax.jit, compiler_options=FAST)
    found = np.asarray(run(task.predict)(segmenter, batch)["prediction"])
    mirrored = (False,) if tta == "none" else (False, True)
    confusion, num_changed = np.zeros((6, 6), int), 0
    for row, name in enumerate(PAIRS):
        views = [compute_alone(name, r, m) for r in ratios for m in mirrored]
        expected = np.mean(views, 0).argmax(-1)
        height, width = expected.shape
        guess = found[row, :height, :width]
        # Two classes may lie closer together than float32 tells apart.
        assert (guess == expected).mean() > 0.998
        num_changed += (compute_alone(name, 1.0, False).argmax(-1) != guess).sum()
        label = batch["label"][row, :height, :width]
        np.add.at(confusion, (label, guess), 1)
    assert (num_changed > 50) == (tta != "none")
    if tta == "flip":
        outputs = run(task.evaluate)(segmenter, batch)
        np.testing.assert_array_equal(outputs["confusion"], confusion)


def test_the_sizes_are_those_of_mmsegmentation(folder):
    task = segment(folder, "multiscale")
    assert task.num_eval_programs == 1
    (batch,) = task.eval_batches()
    found = [batch[name][0].tolist() for name in batch if name.startswith("size")]
    short = [int(60 * ratio) for ratio in (1, 0.5, 0.75, 1.25, 1.5, 1.75)]
    assert [min(size) for size in found] == short
    for name, image in batch.items():
        if name.startswith("image"):
            assert image.shape[1] == image.shape[2] == 192


def test_classifies_by_the_mean_of_two_logits():
    config = cifar.get_config("cifar10")
    config.batch_size, config.eval.tta = 4, "flip"
    config.model.sizes.update(SIZES)
    task = create(config, with_data=False)
    model = fill(lambda: task.build(nnx.Rngs(0)))
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.integers(0, 256, (4, 36, 40, 3), np.uint8),
        "label": np.array([3, 1, 4, 1], np.int32),
        "valid": np.ones(4, bool),
    }
    run = functools.partial(jax.jit, compiler_options=FAST)
    outputs = run(task.evaluate)(model, batch)
    call = run(lambda model, images: model(normalize(images)))
    both = [call(model, batch["image"][:, :, ::step]) for step in (1, -1)]
    logits = jnp.stack(both).mean(0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    np.testing.assert_allclose(outputs["loss"], loss, rtol=1e-4)
    assert np.abs(both[0] - both[1]).max() > 0.01
    shown = run(task.predict)(model, batch)["probability"]
    np.testing.assert_allclose(shown, jax.nn.softmax(logits), atol=1e-5)


@pytest.mark.slow
def test_the_command_evaluates_with_it(tmp_path):
    """The loss of `train.py --eval-only`, against the one by hand."""
    draw(tmp_path / "data" / "val")
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(3), num_classes=2, **SIZES)
    model.head.kernel.set_value(100 * model.head.kernel[...])
    names = ["blue", "red"]
    litv2_jax.save_pretrained(model, tmp_path / "hub", class_names=names)
    sizes = [f"--config.model.sizes.{name}={value}" for name, value in SIZES.items()]
    arguments = [
        "--config=configs/demo.py:digits",
        "--eval-only",
        f"--weights={tmp_path / 'hub'}",
        "--config.data.name=folder",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.data.eval_split=val",
        "--config.data.image_size=32",
        *sizes,
    ]
    losses = []
    for tta in ("none", "flip"):
        result = start(*arguments, f"--config.eval.tta={tta}")
        assert result.poll() == 0, result.stderr
        losses.append(float(re.search(r"loss ([\d.]+)", result.stdout)[1]))

    predictor = litv2_jax.Predictor.load(tmp_path / "hub")
    pixels = [
        predictor._read(tmp_path / "data" / "val" / name / f"{i}.png")
        for name in names
        for i in range(12)
    ]
    images = normalize(np.stack([np.asarray(image) for image in pixels]))
    labels = jnp.repeat(jnp.arange(2), 12)
    both = [jax.jit(lambda m, x: m(x))(model, images[:, :, ::s]) for s in (1, -1)]
    for logits, loss in zip((both[0], sum(both) / 2), losses, strict=True):
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        assert loss == pytest.approx(float(expected.mean()), rel=1e-3)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (cifar.get_config("cifar10"), "config.eval.tta is 'turn'; use none or flip"),
        (demo.get_config("shapes"), "'turn'; use none or flip or multiscale"),
    ],
)
def test_other_choices_are_named(recipe, message):
    recipe.eval.tta = "turn"
    with pytest.raises(ConfigError, match=message):
        create(recipe)
