import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model
from litv2_jax.ops.losses import pixel_cross_entropy
from litv2_jax.ops.resize import resize_bilinear
from tests.reference import (
    SEED,
    Reference,
    abstract_model,
    compare_gradients,
    dense_rules,
    differentiate,
    fill,
    make_dense_images,
    make_weights,
    read_json,
)

TINY = {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SIZES = {"tiny": TINY, "s": {}}
REFERENCES = {name: Reference(f"dense/semfpn_{name}") for name in SIZES}
CASES = [
    ("tiny", (2, 96, 128)),
    ("tiny", (1, 90, 118)),
    pytest.param("s", (1, 96, 128), marks=pytest.mark.slow),
    pytest.param("tiny", (1, 512, 512), marks=pytest.mark.slow),
    pytest.param("s", (1, 512, 512), marks=pytest.mark.slow),
]
# Of values up to 13; the first map's own noise is up to 1e-5 already.
TOLERANCE = 6e-5


def create(name: str, **options):
    return fill(
        lambda: create_model(
            "semantic_fpn_litv2_s", rngs=nnx.Rngs(0), **SIZES[name], **options
        )
    )


@functools.cache
def model_of(name: str):
    return create(name)


def make_labels(count: int, height: int, width: int) -> np.ndarray:
    """Blocks of 8x8 pixels with one class each, or none."""
    name = f"input.label.{height}x{width}"
    shape = (count, 1, height // 8, width // 8)
    labels = (dense_rules.uniform(name, shape, SEED) * 150 * 1.15).astype(np.uint8)
    labels = np.where(labels >= 150, 255, labels)[:, 0]
    return labels.repeat(8, 1).repeat(8, 2)


def test_the_rules_make_the_weights_that_values_were_computed_with():
    digest = hashlib.sha256()
    for name, array in make_weights(
        read_json("dense/semfpn_names.json")["tiny"]
    ).items():
        digest.update(name.encode() + array.tobytes())
    expected = read_json("dense/weights_check.json")["semfpn_tiny"]["sha256"]
    assert digest.hexdigest() == expected


@jax.jit
def run_stages(model, images):
    """Returns every stored array of a forward pass, but those at the original size."""
    maps = model.features(images)
    levels = model.fpn(maps)
    arrays = {f"backbone.{i}": x for i, x in enumerate(maps)}
    arrays |= {f"neck.{i}": x for i, x in enumerate(levels)}
    for i, branch in enumerate(model.head.branches):
        arrays[f"scale_head.{i}"] = branch(levels[i])
    arrays["logits"] = model(images)
    size = images.shape[1:3]
    arrays["logits_at_input_size"] = resize_bilinear(arrays["logits"], size)
    return arrays


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_matches_pytorch(name, shape):
    """Backbone, neck, branches and logits, at odd sizes too."""
    reference, model = REFERENCES[name], model_of(name)
    stem = "x".join(map(str, shape))
    images = make_dense_images(*shape)

    for key, array in run_stages(model, images).items():
        array = np.asarray(array).transpose(0, 3, 1, 2)
        assert reference.difference(f"{stem}/{key}", array) < TOLERANCE, key


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param("tiny", (2, 96, 128), marks=pytest.mark.slow), *CASES[1:]],
    ids=str,
)
def test_predictions_match_pytorch_at_the_size_of_the_picture(name, shape):
    reference, model = REFERENCES[name], model_of(name)
    stem = "x".join(map(str, shape))
    size, new_size = shape[1:], tuple(reference[f"{stem}/ori_shape"].tolist())
    sizes, new_sizes = (np.array([x] * shape[0]) for x in (size, new_size))

    segment = jax.jit(lambda model, *x: model.segment(*x, new_size))
    logits = segment(model, make_dense_images(*shape), sizes, new_sizes)

    def difference(key, array):
        return reference.difference(f"{stem}/{key}", array.transpose(0, 3, 1, 2))

    assert difference("logits_at_ori_size", logits) < TOLERANCE
    assert difference("prob_at_ori_size", jax.nn.softmax(logits)) < 1e-5
    classes = np.asarray(logits.argmax(-1))
    step = max(1, new_size[0] // 128), max(1, new_size[1] // 128)
    stored = reference[f"{stem}/pred"]
    # Two classes may lie closer together than float32 tells apart.
    assert (classes[:, :: step[0], :: step[1]] == stored).mean() > 0.999
    counts = np.bincount(classes.reshape(-1), minlength=150)
    assert np.abs(counts - reference[f"{stem}/pred_hist"]).sum() < 1e-3 * classes.size


# tests/tasks/test_segmentation.py compares the classes of a run likewise.
@pytest.mark.slow
def test_the_class_of_each_pixel_is_where_the_largest_logit_is():
    images = make_dense_images(2, 32, 48)
    sizes, new_sizes = np.array([[32, 48], [20, 30]]), np.array([[70, 90], [40, 60]])
    model = model_of("tiny")
    arguments = images, sizes, new_sizes

    @jax.jit
    def run(model, *arguments):
        return model.segment(*arguments, (70, 90)), model.predict(*arguments, (70, 90))

    logits, classes = run(model, *arguments)
    np.testing.assert_array_equal(classes, logits.argmax(-1))


def test_loss_and_accuracy_match_pytorch():
    name, shape = CASES[0]
    reference, stem = REFERENCES[name], "x".join(map(str, shape))
    labels = make_labels(*shape)
    assert (labels == 255).mean() == reference[f"{stem}/label_ignored_fraction"]

    logits = run_stages(model_of(name), make_dense_images(*shape))
    logits = logits["logits_at_input_size"]

    loss = pixel_cross_entropy(logits, labels)
    assert loss == pytest.approx(float(reference[f"{stem}/loss_eval_mode"]), rel=1e-6)
    accuracy = 100 * (np.asarray(logits.argmax(-1)) == labels).mean()
    assert accuracy == pytest.approx(reference[f"{stem}/acc_eval_mode"][0], abs=0.01)


@pytest.mark.gpu
def test_training_matches_pytorch():
    """Loss, gradients and running statistics, with nothing dropped."""
    name, shape = CASES[0]
    reference, stem = REFERENCES[name], "x".join(map(str, shape)) + "/train"
    model = create(name, drop_path_rate=0.0, dropout_rate=0.0)
    model = nnx.view(model, deterministic=False, use_running_average=False)
    labels = make_labels(*shape)

    def loss_fn(model, images):
        logits = resize_bilinear(model(images), labels.shape[1:])
        return pixel_cross_entropy(logits, labels), logits

    images = make_dense_images(*shape)
    logits, grads, _, after = differentiate(loss_fn, model, images)

    loss = pixel_cross_entropy(logits, labels)
    assert loss == pytest.approx(float(reference[f"{stem}/loss"]), rel=1e-6)
    accuracy = 100 * (np.asarray(logits.argmax(-1)) == labels).mean()
    assert accuracy == pytest.approx(reference[f"{stem}/acc"][0], abs=0.01)
    # Gradients jump where an offset crosses a whole number or a ReLU crosses zero. One
    # is that close here: some processors round it to the other side, and norms move by
    # 1e-3. Noise of 1e-7 shows both sides; one is the original's.
    rng = np.random.default_rng(0)
    for _ in range(4):
        if (difference := compare_gradients(reference, stem, grads, 1e-6)) < 1e-4:
            break
        moved = images + 1e-7 * rng.standard_normal(images.shape, np.float32)
        grads = differentiate(loss_fn, model, moved)[1]
    assert difference < 1e-4
    buffers = litv2_jax.to_torch_state_dict(after)
    for key in reference.keys(f"{stem}/after/"):
        assert reference.difference(f"{stem}/after/{key}", buffers[key]) < 1e-5, key


@pytest.mark.parametrize(
    "variant", ["s", pytest.param("m", marks=pytest.mark.slow), "b"]
)
def test_parameters_and_flops_are_the_published_ones(variant):
    facts = read_json("dense/semfpn_counts.json")[variant]
    name = f"semantic_fpn_litv2_{variant}"
    model = abstract_model(name)

    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(math.prod(x.shape) for x in leaves) == facts["params"]
    flops = litv2_jax.count_flops(model, 512)
    assert f"{flops.published / 1e9:.4g} GFLOPs" == facts["get_flops"]
    # What it leaves out, the deformable convolutions, is more than what it adds.
    assert flops.corrected > flops.published


@pytest.mark.parametrize("size", [(29, 29), (64, 64), (33, 70), (97, 130)])
def test_logits_have_stride_4_at_any_size(size):
    def run(images):
        sizes = {"num_classes": 7, "depths": (1, 1, 1, 1)}
        return create_model("semantic_fpn_litv2_s", rngs=nnx.Rngs(0), **sizes)(images)

    logits = jax.eval_shape(run, jnp.ones((2, *size, 3)))
    assert logits.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 7)


def test_fused_models_compute_the_same():
    model = model_of("tiny")
    fused = litv2_jax.fuse_for_inference(model)
    images = make_dense_images(1, 90, 118)

    fused_logits = jax.jit(lambda model, x: model(x))(fused, images)
    logits = run_stages(model, images)["logits"]
    np.testing.assert_allclose(fused_logits, logits, atol=5e-5)
    count = len(jax.tree.leaves(nnx.state(model)))
    assert len(jax.tree.leaves(nnx.state(fused))) < count


def test_training_drops_whole_channels_of_the_head():
    model = create_model(
        "semantic_fpn_litv2_s", rngs=nnx.Rngs(0), dropout_rate=0.5, **TINY
    )
    head = nnx.view(model.head, deterministic=False, use_running_average=True)
    seen = []
    head.classify = lambda x: seen.append(x) or x
    maps = [jnp.ones((2, 16 // 2**i, 16 // 2**i, 256)) for i in range(4)]

    head(maps, nnx.Rngs(dropout=0))

    is_dropped = np.asarray((seen[0] == 0).all((1, 2)))
    assert 0.3 < is_dropped.mean() < 0.7


def test_statistics_of_the_head_are_those_of_the_whole_batch():
    """Those of the token merging are of groups, as on the GPUs of the original."""
    model = create_model("semantic_fpn_litv2_s", rngs=nnx.Rngs(0), **TINY)
    view = nnx.view(model, batch_norm_group_size=2, use_running_average=False)

    assert view.backbone.merges[0].norm.group_size == 2
    assert view.head.branches[3].layers[0].norm.group_size == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpn_dim": 0}, "fpn_dim=0 must be 1 or more"),
        ({"num_classes": 0}, "num_classes=0 must be 1 or more"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("semantic_fpn_litv2_s", rngs=nnx.Rngs(0), **options)


def test_a_classifier_has_no_pyramid():
    with pytest.raises(ValueError, match="litv2_s has no fpn_dim; it has num_classes"):
        create_model("litv2_s", rngs=nnx.Rngs(0), fpn_dim=64)
