"""Our PyTorch LITv2 computes what the original does, or its speed says nothing."""

import numpy as np
import pytest

from litv2_jax.models import backbone
from tests.reference import Reference, make_images, make_input, make_weights, read_json

torch = pytest.importorskip("torch")

from benchmarks.torch_peer import litv2, merging  # noqa: E402

HILO = Reference("hilo")
# The others have windows that do not divide the map.
HILO_CASES = [
    name
    for name, case in HILO.cases.items()
    if not (case["H"] % case["window_size"] or case["W"] % case["window_size"])
]
MERGING = Reference("dtm")
MERGING_CASES = [name for name in MERGING.cases if not name.startswith("deform/")]
TINY = Reference("litv2_tiny")
LARGE = Reference("litv2_models")
SIZES = ("embed_dim", "depths", "num_heads", "alpha", "num_classes")


def fill(module, **changes):
    """Loads the weights that the stored values were computed with."""
    shapes = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    arrays = {**make_weights(shapes), **changes}
    module.load_state_dict({name: torch.tensor(x) for name, x in arrays.items()})
    return module


def gradients(module):
    return {name: x.grad.numpy() for name, x in module.named_parameters()}


def nchw(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def build(case, sizes):
    return litv2.LITv2(
        **{key: case[key] for key in sizes},
        window_sizes=case["local_ws"],
        drop_path_rate=0.0,
    )


@pytest.mark.parametrize("name", HILO_CASES)
def test_hilo_matches_the_original(name):
    case = HILO.cases[name]
    shape = (case["B"], case["H"] * case["W"], case["dim"])
    x = torch.tensor(make_input(f"hilo/{name}", shape) * np.float32(case["x_scale"]))
    cotangent = torch.tensor(make_input(f"ct:hilo/{name}", shape))
    keys = ("dim", "num_heads", "window_size", "alpha", "qkv_bias", "qk_scale")
    layer = fill(litv2.HiLo(**{key: case[key] for key in keys}))

    output = layer(x.requires_grad_(), case["H"], case["W"])
    (output * cotangent).sum().backward()

    # Sharp softmax: the original is off from its own float64 by 2e-5 there.
    atol = 3e-5 if "sharp" in name else 3e-6
    assert HILO.difference(f"{name}/out", output.detach()) < atol
    grads = gradients(layer)
    assert HILO.keys(f"{name}/grad/") == sorted(grads)
    for key, grad in {"grad_x": x.grad, **grads}.items():
        stored = f"{name}/{key}" if key == "grad_x" else f"{name}/grad/{key}"
        assert HILO.difference(stored, grad) <= 1e-4 * HILO.scale(stored), key


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", MERGING_CASES)
def test_token_merging_matches_the_original(name, mode):
    case = MERGING.cases[name]
    layer = build_merging(case).train(mode == "train")
    x = read_tokens(name, case).requires_grad_()
    shape = (case["B"], (case["H"] // 2) * (case["W"] // 2), 2 * case["dim"])
    cotangent = torch.tensor(make_input(f"ct:dtm/{name}", shape))

    output = layer(x, case["H"], case["W"])
    (output * cotangent).sum().backward()

    stem = f"{name}/{mode}"
    assert MERGING.difference(f"{stem}/out", output.detach()) < 2e-5
    if mode == "train":
        buffers = dict(layer.named_buffers())
        for key in MERGING.keys(f"{stem}/buffer/"):
            assert MERGING.difference(f"{stem}/buffer/{key}", buffers[key]) < 5e-6
    if case["B"] == 1:
        return  # The stored gradients are wrong: see tests/models/test_merging.py.
    grads = {"x": x.grad, **gradients(layer)}
    for key in MERGING.keys(f"{stem}/grad/"):
        stored = f"{stem}/grad/{key}"
        # BatchNorm takes the mean off: the gradient is 0, what is left is noise.
        noise = 2e-5 if (mode, key) == ("train", "dconv.bias") else 0
        tolerance = 1e-4 * MERGING.scale(stored) + noise
        assert MERGING.difference(stored, grads[key]) <= tolerance, key


def build_merging(case):
    offset = "dconv.conv_offset."
    arrays = make_weights(case["shapes"])
    for name in (f"{offset}weight", f"{offset}bias"):
        arrays[name] = arrays[name] * np.float32(case["offset_mult"])
    if case["offset_bias"] is not None:
        arrays[f"{offset}bias"] = np.float32(case["offset_bias"])
    layer = merging.TokenMerging(case["dim"], 2 * case["dim"])
    return fill(layer, **arrays)


def read_tokens(name, case):
    if case["image"]:
        images = make_images("", 0, (0, 0), [case["image"]])
        return torch.tensor(images.reshape(1, -1, 3))
    shape = (case["B"], case["H"] * case["W"], case["dim"])
    return torch.tensor(make_input(f"dtm/{name}", shape))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", TINY.cases)
def test_tiny_model_matches_the_original(name, mode):
    case = TINY.cases[name]
    model = fill(build(case, SIZES)).train(mode == "train")
    images = nchw(make_images(f"tiny/{name}", 2, (case["img"],) * 2, case["images"]))
    labels = torch.tensor(case["labels"])

    logits = model(images.requires_grad_())
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()

    stem = f"{name}/{mode}"
    assert TINY.difference(f"{stem}/logits", logits.detach()) < 2e-5
    assert TINY.difference(f"{stem}/loss", loss.detach()) < 2e-6
    assert TINY.difference(f"{stem}/grad_input", images.grad) < 1e-6
    norms = dict(zip(case["param_names"], TINY[f"{stem}/grad_norms"], strict=True))
    for key, grad in gradients(model).items():
        if mode == "train" and key.endswith("dconv.bias"):
            assert np.abs(grad).max() < 1e-6
            continue
        if norms[key] == 0:
            # The softmax over a single window; fused attention rounds where it cancels.
            assert np.abs(grad).max() < 1e-7, key
            continue
        tolerance = 1e-4 * case[mode]["grad_absmax"][key] + 1e-9
        assert TINY.difference(f"{stem}/grad/{key}", grad) < tolerance, key
        np.testing.assert_allclose(np.linalg.norm(grad), norms[key], rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "s_224",
        pytest.param("m_224", marks=pytest.mark.slow),
        pytest.param("b_224", marks=pytest.mark.slow),
    ],
)
def test_published_models_match_the_original(name):
    case = LARGE.cases[name]
    model = fill(build(case, SIZES)).eval()
    images = make_images(f"{case['model']}_224", 1, (224, 224), [case["image"]])
    with torch.inference_mode():
        logits = model(nchw(images))
    assert LARGE.difference(f"{name}/logits", logits) < 2e-5


@pytest.mark.parametrize("name", litv2.VARIANTS)
def test_names_shapes_and_sizes_are_the_published_ones(name):
    variant = litv2.VARIANTS[name]
    with torch.device("meta"):
        model = litv2.LITv2(**variant)
    expected = read_json("state_dict_shapes.json")[f"{name[-1]}_224"]
    found = {key: list(x.shape) for key, x in model.state_dict().items()}
    assert found == expected
    sizes = backbone.VARIANTS[name]
    assert {key: getattr(sizes, key) for key in variant} == variant
    rates = [block.drop_path.rate for layer in model.layers for block in layer.blocks]
    np.testing.assert_allclose(rates, sum(sizes.drop_path_rates, ()), atol=1e-7)


def test_training_starts_where_the_original_does():
    torch.manual_seed(0)
    model = litv2.LITv2(**litv2.VARIANTS["litv2_s"])
    expected = read_json("model_facts.json")["init_stats_litv2_s_seed0"]
    for name, x in model.state_dict().items():
        if name in expected and x.numel() > 1:
            stats, error = expected[name], 6 / x.numel() ** 0.5
            assert abs(x.mean() - stats["mean"]) <= error * stats["std"], name
            # Its sampling of a normal is infinite once in millions, and cut off at -2.
            outliers = 4 / x.numel() if stats["min"] == -2 else 0
            std = (stats["std"] ** 2 - outliers) ** 0.5
            assert abs(x.std() - std) <= error * std, name


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = litv2.DropPath(0.25), torch.ones(4000, 2, 3)
    kept = drop(x)
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75], rtol=1e-6)
    assert (kept == kept[:, :1, :1]).all()
    assert abs(kept.mean() - 1) < 0.03
    assert drop.eval()(x) is x
