"""A family that the package does not know works everywhere once it is registered."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax import count_flops, create_model, fuse_for_inference, list_models
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.models.backbone import VARIANTS, Backbone, BackboneConfig
from litv2_jax.models.family import (
    Family,
    find_family,
    register,
    side_of,
    unregister,
)
from litv2_jax.models.flops import Flops
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.linear import Linear
from litv2_jax.settings import ConfigError
from litv2_jax.tasks.model_settings import ModelSettings

SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 4)}
SIZES |= {"alpha": 0.5, "hidden": 6}


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    backbone: BackboneConfig
    num_classes: int = 3
    hidden: int = 16


class Projection(nnx.Module):
    def __init__(self, dim, hidden, num_classes, *, dtype, rngs):
        self.shrink = Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.classify = Linear(hidden, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.classify(jax.nn.relu(self.shrink(x)))


class Depth(nnx.Module):
    """A depth of each position of the last map."""

    def __init__(self, config, *, dtype, rngs):
        dim = config.backbone.dims[-1]
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(dim, dtype=dtype, rngs=rngs)
        self.head = Projection(
            dim, config.hidden, config.num_classes, dtype=dtype, rngs=rngs
        )

    def __call__(self, images, *, rngs=None):
        return self.head(self.norm(self.backbone(images, rngs)[-1]))


@pytest.fixture
def family():
    family = register(
        Family(
            task="depth",
            module=Depth,
            configs={"depth_litv2_s": DepthConfig(VARIANTS["litv2_s"])},
            torch_names={
                Depth: {"backbone": "backbone", "norm": "neck", "head": "depth_head"},
                Projection: {"shrink": "fc", "classify": "out"},
            },
            torch_heads=("depth_head.out",),
            torch_entry="state_dict",
            torch_sizes={
                "num_classes": side_of("depth_head.out.weight"),
                "hidden": side_of("depth_head.fc.weight"),
            },
            class_names="imagenet",
            describe_input=lambda _: {"image_size": 64},
            norms_to_fold=lambda model: iter([(model.norm, model.head.shrink)]),
            count_flops=lambda model, size: Flops(1, size[0]),
        )
    )
    yield family
    unregister(family)


def create(**sizes):
    return create_model("depth_litv2_s", rngs=nnx.Rngs(0), **{**SIZES, **sizes})


def test_its_models_are_created_by_their_own_sizes(family):
    model = create(num_classes=5)
    assert model.head.classify.out_features == 5
    assert model.head.shrink.out_features == 6
    assert model.backbone.config.embed_dim == 8
    assert list_models("depth") == ["depth_litv2_s"]
    assert find_family("depth_litv2_s") is family
    assert count_flops(model, (64, 32)).corrected == 64
    with pytest.raises(ValueError, match="no hiden; it has .* Did you mean hidden?"):
        create(hiden=3)
    with pytest.raises(ValueError, match="Did you mean depth_litv2_s?"):
        create_model("depth_lit_s", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="depth_litv2_s already"):
        register(family)


def test_it_is_unknown_unless_registered():
    with pytest.raises(ValueError, match="no model called 'depth_litv2_s'"):
        create()
    with pytest.raises(ValueError, match="no models for 'depth'"):
        list_models("depth")


def test_recipes_have_its_sizes(family):
    sizes = {name: SIZES[name] for name in ("hidden", "depths")}
    settings = ModelSettings("depth_litv2_s", 0.1, "float32", sizes)
    settings.check("depth")
    with pytest.raises(ConfigError, match="sizes.hiden is not a setting: did you mean"):
        dataclasses.replace(settings, sizes={"hiden": 3}).check("depth")
    with pytest.raises(ConfigError, match="no model for this task"):
        settings.check("classification")


def test_fusing_folds_its_norm(family):
    model = create()
    model.norm.scale[...] = 1 + jnp.arange(64) / 64
    model.norm.bias[...] = jnp.arange(64) / 64
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))

    fused = fuse_for_inference(model)

    assert not nnx.state(fused.norm, nnx.Param)
    run = jax.jit(lambda model, x: model(x))
    np.testing.assert_allclose(run(fused, images), run(model, images), atol=1e-5)


def test_its_weights_convert_both_ways(family, tmp_path):
    model, path = create(), tmp_path / "depth.pth"
    arrays = litv2_jax.to_torch_state_dict(model)
    assert arrays["depth_head.fc.weight"].shape == (6, 64)
    write_torch_checkpoint(path, arrays, family.torch_entry)
    heads = ["--num-heads", "1", "1", "2", "4", "--alpha", "0.5"]

    convert_torch_weights.main([str(path), str(tmp_path / "out"), *heads])
    convert_torch_weights.main(
        [str(tmp_path / "out"), str(tmp_path / "back.pth"), "--to-torch"]
    )

    assert litv2_jax.pretrained.describe(tmp_path / "out")["input"] == {
        "image_size": 64
    }
    back = litv2_jax.read_torch_checkpoint(tmp_path / "back.pth")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
