import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax import load_torch_weights
from litv2_jax.models import create_model
from litv2_jax.models.backbone import BackboneConfig, Stage
from litv2_jax.models.layer_norm import LayerNorm
from tests.reference import (
    Reference,
    fill,
    make_images,
    make_weights,
    mark_slow,
)

GOLDEN = Reference("backbone")


@pytest.mark.gpu
@pytest.mark.parametrize("name", mark_slow(GOLDEN.cases, lambda name: "_s" in name))
def test_features_match_the_dense_backbones(name):
    """Odd sizes, and the norms that segmentation and detection put on the maps."""
    case = GOLDEN.cases[name]
    model = fill(
        lambda: create_model(
            "litv2_s",
            rngs=nnx.Rngs(0),
            alpha=case["alpha"],
            window_sizes=case["local_ws"],
            embed_dim=case["embed_dim"],
            depths=case["depths"],
            num_heads=case["num_heads"],
        )
    )
    size = (case["H"], case["W"])
    images = make_images(f"backbone/{name}", case["B_random"], size, [case["image"]])

    maps = jax.jit(lambda model, x: model.features(x))(model, images)

    for i, x in enumerate(maps):
        if f"norm{i}" in case["norms"]:
            x = norm_of(f"norm{i}", x.shape[-1])(x)
        # Of values up to 6; the original's own noise is up to 1e-5.
        assert GOLDEN.difference(f"{name}/feat{i}", x.transpose(0, 3, 1, 2)) < 3e-5


def norm_of(name: str, dim: int) -> LayerNorm:
    norm = LayerNorm(dim, dtype=jnp.float32, rngs=nnx.Rngs(0))
    arrays = make_weights({f"{name}.{leaf}": (dim,) for leaf in ("weight", "bias")})
    load_torch_weights(norm, {key.split(".")[1]: x for key, x in arrays.items()})
    return norm


@pytest.mark.parametrize("size", [(29, 29), (64, 64), (33, 70), (97, 130)])
def test_features_have_strides_4_8_16_32_at_any_size(size):
    def run(images):
        depths = (1, 1, 1, 1)
        model = create_model("litv2_s", rngs=nnx.Rngs(0), depths=depths)
        return model.features(images)

    maps = jax.eval_shape(run, jnp.ones((2, *size, 3)))

    first = np.ceil(np.array(size) / 4).astype(int)
    for i, x in enumerate(maps):
        assert x.shape == (2, *(first // 2**i), 96 * 2**i)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.float32), r"\[B, H, W, 3\], not \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.float32), r"not \[1, 3, 32, 32\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), "uint8 have not been normalised"),
        (np.zeros((1, 28, 64, 3), np.float32), "28x64 pixels"),
    ],
)
def test_wrong_images_are_refused(images, message):
    model = create_model("litv2_s", rngs=nnx.Rngs(0), embed_dim=24)
    with pytest.raises(ValueError, match=message):
        model(images)


def test_rematerialisation_changes_nothing_but_what_is_kept():
    """Neither gradients nor which paths are dropped."""
    config = BackboneConfig(
        embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 1, 2, 4), drop_path_rate=0.9
    )
    # Without attention, to compile less.
    stage = Stage(config, 0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    stage = nnx.view(stage, deterministic=False)
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 8))

    def differentiate(remat):
        graphdef, state = nnx.split(nnx.view(stage, remat=remat))

        def loss(state):
            return jnp.mean(nnx.merge(graphdef, state)(x, nnx.Rngs(1)) ** 2)

        state = nnx.as_pure(state)
        program = jax.make_jaxpr(jax.grad(loss))(state)
        return jax.jit(jax.grad(loss))(state), str(program).count("remat")

    (kept, none), (again, some) = differentiate("none"), differentiate("blocks")
    assert (none, some > 0) == (0, True)
    for x, y in zip(*map(jax.tree.leaves, (kept, again)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6 * np.abs(x).max() + 1e-9)
    with pytest.raises(ValueError, match="remat='all' is unknown; use none or blocks"):
        nnx.view(stage, remat="all")
