import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import coco_mask_rcnn, coco_retinanet, demo, imagenet
from litv2_jax import models
from litv2_jax.augment.mixing import smooth_labels
from litv2_jax.convert.model_arrays import torch_entries
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError, parse
from litv2_jax.training.groups import ParameterGroups, join_path
from litv2_jax.training.optimizer import (
    OptimizerSettings,
    create_optimizer,
    create_schedule,
)
from litv2_jax.training.step import TrainState, make_train_step
from tests.models.test_classifier import TINY, tiny_model
from tests.reference import GOLDEN, fill, make_images, read_json

RECIPE = read_json("recipe.json")
ARRAYS = np.load(GOLDEN / "recipe.npz")


def settings_of(train: dict, batch_size: int = 1024) -> OptimizerSettings:
    """Settings from the original's own, whose rates are for `batch_size` already."""
    return OptimizerSettings(
        learning_rate=train["BASE_LR"],
        warmup_learning_rate=train["WARMUP_LR"],
        end_learning_rate=train["MIN_LR"],
        base_batch_size=batch_size,
        warmup_epochs=train["WARMUP_EPOCHS"],
        weight_decay=train["WEIGHT_DECAY"],
        clip_norm=train["CLIP_GRAD"],
        groups=imagenet.get_config().optimizer.groups,
    )


def rates_of(settings: OptimizerSettings, **lengths):
    """The learning rates of everything, and of the offsets' convolutions."""
    return [
        create_schedule(settings, factor=factor, **lengths) for factor in (1.0, 0.01)
    ]


DETECTORS = {"retinanet": coco_retinanet, "mask_rcnn": coco_mask_rcnn}


@pytest.mark.parametrize("model", DETECTORS)
def test_learning_rates_of_detectors_are_those_of_mmdetection(model):
    stored = read_json("dense/recipes.json")[model]["lr_at_iter_epoch_len_7330"]
    config = DETECTORS[model].get_config("litv2_s").to_dict()
    schedule = create_schedule(
        parse(OptimizerSettings, config["optimizer"], "config.optimizer"),
        batch_size=16,
        steps_per_epoch=7330,
        num_steps=12 * 7330,
    )
    steps = np.array([int(step) for step in stored])
    assert len(steps) == 9
    np.testing.assert_allclose(schedule(steps), list(stored.values()), rtol=1e-6)


@pytest.mark.parametrize("model", DETECTORS)
def test_weights_of_detectors_decay_as_published(model):
    stored = read_json("dense/recipes.json")[model]["optimizer_groups_s"]
    config = DETECTORS[model].get_config("litv2_s").to_dict()
    settings = parse(OptimizerSettings, config["optimizer"], "config.optimizer")
    built = nnx.eval_shape(
        lambda: models.create_model(f"{model}_litv2_s", rngs=nnx.Rngs(0))
    )
    params = split_state(built)[0]
    groups = ParameterGroups(settings.all_groups, params)
    sizes = [
        leaf.size
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
        if not groups.find(path).decay
    ]
    assert len(sizes) == stored["entries_without_decay"]
    assert sum(sizes) == stored["elements_without_decay"]


@pytest.mark.parametrize("name", ["litv2_s", "litv2_m", "litv2_b", "litv2_b_384"])
def test_learning_rates_are_those_the_original_used(name):
    recipe = RECIPE[name]
    rows = recipe["lr_used_by_optimizer_step"]
    # The recipe's rates are for 512 images.
    settings = settings_of(recipe["raw_train"], batch_size=512)
    schedule, offsets = rates_of(
        settings,
        batch_size=recipe["total_batch"],
        steps_per_epoch=recipe["steps_per_epoch"],
        num_steps=recipe["total_steps"],
    )
    steps, decay, no_decay, dconv = np.array(rows).T
    assert (decay == no_decay).all()
    np.testing.assert_allclose(schedule(steps), decay, rtol=1e-6)
    np.testing.assert_allclose(offsets(steps), dconv, rtol=1e-6)


def test_learning_rates_of_a_short_run():
    recipe = RECIPE["short_schedule"]
    scaled = {**RECIPE["litv2_s"]["raw_train"], **recipe["scaled"]}
    settings = settings_of({**scaled, "WARMUP_EPOCHS": recipe["WARMUP_EPOCHS"]})
    schedule, offsets = rates_of(
        settings,
        batch_size=1024,
        steps_per_epoch=recipe["steps_per_epoch"],
        num_steps=recipe["EPOCHS"] * recipe["steps_per_epoch"],
    )
    steps, decay, _, dconv = np.array(recipe["rows"]).T
    np.testing.assert_allclose(schedule(steps), decay, rtol=1e-6)
    np.testing.assert_allclose(offsets(steps), dconv, rtol=1e-6)


def test_decay_is_that_of_the_original():
    model = nnx.eval_shape(lambda: models.create_model("litv2_s", rngs=nnx.Rngs(0)))
    params, _ = split_state(model)
    groups = ParameterGroups(imagenet.get_config().optimizer.groups, params)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    ours = {join_path(path): groups.find(path).decay for path in paths}
    members = RECIPE["litv2_s"]["group_members"]
    decayed = {*members["decay"], *members["dconv"]}
    for entry in torch_entries(model):
        if isinstance(entry.variable, nnx.Param):
            assert ours.pop(entry.path) == (entry.torch_name in decayed)
    assert not ours


def settings_with(**changes) -> OptimizerSettings:
    settings = OptimizerSettings(1e-3, 1e-3, 1e-3, 8, 0, 0.0, 5.0)
    return dataclasses.replace(settings, **changes)


def create(settings: OptimizerSettings, params):
    """The optimizer of a run of a hundred steps."""
    lengths = {"batch_size": 8, "steps_per_epoch": 10, "num_steps": 100}
    return create_optimizer(
        settings,
        ParameterGroups(settings.groups, params),
        lambda factor: create_schedule(settings, factor=factor, **lengths),
    )


def test_offsets_alone_learn_at_their_own_rate():
    """A first step of Adam moves everything by the learning rate."""
    model = models.create_model(
        "litv2_s", rngs=nnx.Rngs(0), embed_dim=24, depths=(1, 1, 1, 1)
    )
    settings = settings_with(groups=(("offset/kernel$", 0.01, 1.0),))
    params, _ = split_state(model)
    optimizer = create(settings, params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(
        grads, optimizer.init(params), params, step=jnp.int32(0)
    )

    nnx.update(model, updates)
    slow = {
        entry.torch_name
        for entry in torch_entries(model)
        if isinstance(entry.variable, nnx.Param)
        and np.abs(entry.variable[...]).max() < 5e-4
    }
    assert slow == {f"layers.{i}.downsample.dconv.conv_offset.weight" for i in range(3)}


class Replay:
    """The golden trajectory as a task: one batch, smoothed labels, no augmentation."""

    def augment(self, batch, key):
        return batch

    def loss(self, model, batch, rngs):
        logits = model(batch["image"], rngs=rngs)
        targets = smooth_labels(batch["label"], 10, 0.1)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, {"logits": logits}


def is_left_out(name: str) -> bool:
    """Gradients that are exactly 0, which Adam makes steps of float noise of."""
    return name.endswith(("dconv.bias", "l_kv.bias", "h_qkv.bias"))


def rate_by_factor(name: str):
    recipe = RECIPE[f"trajectory_{name}"]
    if name == "constant_lr":
        rate, _, offset_rate = recipe["steps"][0]["lr"]
        return lambda factor: lambda _: {1.0: rate, 0.01: offset_rate}[factor]
    steps_per_epoch = recipe["steps_per_epoch"]
    return lambda factor: create_schedule(
        settings_of(recipe["TRAIN"]),
        batch_size=1024,
        steps_per_epoch=steps_per_epoch,
        num_steps=recipe["TRAIN"]["EPOCHS"] * steps_per_epoch,
        factor=factor,
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param("scheduled", "traj/sched/step8", marks=pytest.mark.slow),
        ("constant_lr", "traj/const/step3"),
    ],
)
def test_trajectories_of_the_original_are_reproduced(name, stem):
    """Clipping, decay, warm-up and cosine."""
    recipe, case = RECIPE[f"trajectory_{name}"], TINY.cases["a9"]
    model = nnx.view(
        fill(lambda: tiny_model(case)), deterministic=False, use_running_average=False
    )
    params, stats = split_state(model)
    settings, create_rate = settings_of(recipe["TRAIN"]), rate_by_factor(name)
    groups = ParameterGroups(settings.groups, params)
    optimizer = create_optimizer(settings, groups, create_rate)
    graphdef = nnx.split(model, nnx.Param, nnx.BatchStat)[0]
    step = make_train_step(graphdef, Replay(), optimizer, create_rate(1.0))
    state = TrainState.begin(params, stats, optimizer)
    batch = {
        "image": make_images("tiny/a9", 2, (64, 64), case["images"]),
        "label": np.array(case["labels"]),
    }

    for number, expected in enumerate(recipe["steps"], start=1):
        state, scalars = step(state, batch, jax.random.key(0))
        lr = scalars["learning_rate"]
        np.testing.assert_allclose(lr, expected["lr"][0], rtol=1e-6)
        # Adam magnifies noise: the original's own float32 drifts off likewise.
        rtol = 1e-6 if number == 1 else 1e-4
        np.testing.assert_allclose(scalars["loss"], expected["loss_f64"], rtol=rtol)
        norm = expected["grad_norm_f64"]
        np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=10 * rtol)

    nnx.update(model, state.params, state.stats)
    for entry in torch_entries(model):
        key = f"{stem}/param_f64/{entry.torch_name}"
        if key in ARRAYS and not is_left_out(entry.torch_name):
            assert_same_samples(entry, ARRAYS[key])
    assert all(int(m.norm.num_batches[...]) == number for m in model.backbone.merges)


def assert_same_samples(entry, expected):
    array = np.asarray(entry.variable[...])
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    flat = array.T.reshape(-1) if array.ndim == 2 else array.reshape(-1)
    index = np.rint(np.linspace(0, flat.size - 1, len(expected))).astype(int)
    # The rates sum to 3e-3 and more: a tenth of a percent of the way that Adam goes.
    np.testing.assert_allclose(
        flat[index], expected, atol=4e-6, err_msg=entry.torch_name
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "config.optimizer.learning_rate is 0.0"),
        ({"clip_norm": -1.0}, "config.optimizer.clip_norm is -1.0"),
        ({"groups": ((".", -1.0, 1.0),)}, "groups is -1.0 but must be within 0 and"),
        ({"groups": (("(", 1.0, 1.0),)}, "is '\\(', which is not a regular expression"),
        ({"groups": (("x", 1.0),)}, "but must be of type tuple"),
        ({"schedule": "step"}, "schedule is step but drop_epochs is .*: the schedule"),
        ({"drop_epochs": (3.0,)}, "the schedule step needs them, and no other does"),
        (
            {"schedule": "step", "drop_epochs": (9.0, 8.0)},
            "drop_epochs is .9.0, 8.0.: give each epoch once, in rising order",
        ),
        ({"schedule": "line"}, "schedule is 'line'; use cosine or polynomial or step"),
        ({"warmup_epochs": 11.0}, "warmup_epochs is 11.0 but must be within 0 and"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    values = demo.get_config().optimizer.to_dict()
    name = "config.optimizer"
    parse(OptimizerSettings, values, name).check(epochs=10)
    with pytest.raises(ConfigError, match=message):
        parse(OptimizerSettings, {**values, **changes}, name).check(epochs=10)
