import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from litv2_jax import HiLo, create_model, visualize
from litv2_jax.models.probes import (
    find_samples,
    measure_spectrum,
    read_low_attention,
    split_frequencies,
)
from litv2_jax.visualize import draw_offsets, main
from tests.test_convert_torch_weights import FULL, convert

split = jax.jit(split_frequencies)
SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 4)}


def copying_layer() -> HiLo:
    """Two heads of eight channels that attend to what equals them, and copy it."""
    layer = HiLo(16, 2, 2, alpha=0.5, rngs=nnx.Rngs(0))
    first = jnp.concatenate([jnp.eye(8), jnp.zeros((8, 8))])
    layer.high_qkv.kernel[...] = jnp.concatenate([9 * first, 9 * first, first], axis=1)
    layer.low_q.kernel[...] = 9 * first
    layer.low_kv.kernel[...] = jnp.concatenate([9 * first, first], axis=1)
    for out in (layer.high_out, layer.low_out):
        out.kernel[...] = jnp.eye(8)
    return layer


def checkerboard() -> jax.Array:
    y, x = np.mgrid[:8, :8]
    return jnp.broadcast_to(
        jnp.where((y + x) % 2, 1.0, -1.0)[None, ..., None], (1, 8, 8, 16)
    )


def test_a_checkerboard_is_in_the_spectrum_of_high_frequencies_alone():
    outputs = split(copying_layer(), checkerboard())
    spectra = {name: np.asarray(measure_spectrum(x)) for name, x in outputs.items()}
    assert {name: x.shape for name, x in spectra.items()} == {
        "Hi-Fi": (8, 8, 8),
        "Lo-Fi": (8, 8, 8),
    }
    # The highest frequency of both axes is in the corner.
    np.testing.assert_allclose(spectra["Hi-Fi"][0, 0], 64, rtol=1e-3)
    assert spectra["Lo-Fi"].max() < 1e-3


def test_a_constant_map_has_no_high_frequency():
    outputs = split(copying_layer(), jnp.ones((2, 8, 8, 16)))
    for part in outputs.values():
        spectrum = np.array(measure_spectrum(part))
        np.testing.assert_allclose(spectrum[4, 4], 64, rtol=1e-3)
        spectrum[4, 4] = 0
        assert spectrum.max() < 1e-3


def test_a_position_attends_to_averages_like_itself():
    x = jnp.zeros((1, 6, 7, 16)).at[:, :2, 2:4].set(1.0)
    layer = copying_layer()
    weights = read_low_attention(layer, x, (1, 3))
    assert weights.shape == (1, 3, 4)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    assert weights[0, 0, 1] > 0.99
    with pytest.raises(ValueError, match="There is no position 6, 0 in a map of 6x7"):
        read_low_attention(layer, x, (6, 0))
    # What it says is what the layer does.
    values = jnp.zeros((3, 4)).at[0, 1].set(1.0)
    out = split(layer, x)["Lo-Fi"][0, 1, 3]
    np.testing.assert_allclose(out, (weights[0] * values).sum(), atol=1e-5)


def test_samples_are_moved_by_the_offsets(tmp_path):
    model = create_model("litv2_s", rngs=nnx.Rngs(0), **SIZES)
    merge = model.backbone.merges[1]
    merge.offset.kernel[...] = jnp.zeros_like(merge.offset.kernel[...])
    # Each tap as (down, right): the first goes two positions up, the last one right.
    merge.offset.bias[...] = jnp.array([-2.0, 0, 0, 0, 0, 0, 0, 1])
    pixels = np.zeros((1, 64, 96, 3), np.uint8)
    images = jnp.zeros((1, 64, 96, 3))
    plain, moved = jax.jit(find_samples, static_argnums=2)(model.backbone, images, 2)
    assert plain.shape == (1, 4, 6, 4, 2)
    # A map of stride 8, whose first position is in the middle of eight pixels.
    np.testing.assert_allclose(plain[0, 1, 0, 3], [3 * 8 + 3.5, 8 + 3.5])
    difference = np.asarray(moved - plain)[0, 0, 0]
    np.testing.assert_allclose(difference, [[-16, 0], [0, 0], [0, 0], [0, 8]])
    draw_offsets(model, pixels, tmp_path / "offsets.png", merge=2)
    assert Image.open(tmp_path / "offsets.png").width > 100
    with pytest.raises(ValueError, match="no token merging 4; there are 1 to 3"):
        find_samples(model.backbone, jnp.zeros((1, 64, 64, 3)), 4)


@pytest.mark.parametrize(
    ("setting", "turns"), [({}, 0), ({"exif": "applied"}, -1), ({"exif": "ignored"}, 0)]
)
def test_images_are_turned_upright_if_those_of_the_training_were(
    tmp_path, monkeypatch, setting, turns
):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # Taken with the camera on its side.
    image.save(tmp_path / "a.png", exif=exif)
    model = nnx.eval_shape(lambda: create_model("litv2_s", rngs=nnx.Rngs(0), **SIZES))
    description = {"model": {"name": "litv2_s"}, "input": {"image_size": 64, **setting}}
    monkeypatch.setattr(visualize, "load_described", lambda path: (model, description))
    drawn = []
    monkeypatch.setattr(visualize, "draw_offsets", lambda *a, **_: drawn.append(a[1]))
    main(["offsets", str(tmp_path / "a.png"), "--weights", str(tmp_path)])
    np.testing.assert_array_equal(drawn[0][0], np.rot90(pixels, turns))


def test_the_command_draws_and_says_why_not(tmp_path, capsys):
    convert(FULL, tmp_path / "weights")
    rng = np.random.default_rng(0)
    photos = []
    for name in ("a.png", "b.png"):
        photos.append(str(tmp_path / name))
        pixels = rng.integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(photos[-1])

    def run(*words):
        options = ["--weights", str(tmp_path / "weights"), "--image-size", "64"]
        main([*words, *options, "--output", str(tmp_path / "out.png")])

    for words in (["frequencies", *photos], ["attention", photos[0]]):
        run(*words)
        assert f"Drew {tmp_path / 'out.png'}" in capsys.readouterr().out
        assert Image.open(tmp_path / "out.png").width > 100
    with pytest.raises(SystemExit, match="offsets are drawn of one image, but 2"):
        run("offsets", *photos)
    with pytest.raises(SystemExit, match="no block 9 in stage 3"):
        run("attention", photos[0], "--block", "9")
    with pytest.raises(SystemExit, match="Stage 2 has no attention"):
        run("frequencies", photos[0], "--stage", "2")
