import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as command
from benchmarks import hlo
from benchmarks.h200 import command as h200
from benchmarks.h200 import deviceless, programs, scaling
from benchmarks.h200.minimum import minimum_bytes
from benchmarks.results import read_json
from litv2_jax.models.backbone import BackboneConfig
from litv2_jax.settings import ConfigError

SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
CONFIG = BackboneConfig(**SIZES, alpha=0.5)
BATCH, IMAGE = 3, 64  # Maps of 16, 8, 4 and 2.

has_plugin = any(
    importlib.util.find_spec("jax_plugins")
    and importlib.util.find_spec(f"jax_plugins.xla_cuda{version}")
    for version in (12, 13)
)
needs_plugin = pytest.mark.skipif(
    not has_plugin, reason="JAX's CUDA plugin is not installed"
)


@pytest.mark.skipif(has_plugin, reason="JAX's CUDA plugin is installed")
def test_without_the_plugin_it_says_what_to_install(tmp_path):
    with pytest.raises(SystemExit, match="make install EXTRAS=cuda12"):
        command.main(["h200", "--output", str(tmp_path / "h200.json")])
    assert not list(tmp_path.iterdir())


@needs_plugin
def test_programs_are_those_of_the_gpu():
    x = jax.ShapeDtypeStruct((256, 128), jnp.bfloat16)
    program = programs.compile_program(lambda x: jnp.tanh(x @ x.T).sum(), x)
    kinds = [kernel.kind for kernel in program.kernels]
    assert kinds.count("__cublas$lt$matmul") == 1
    assert hlo.add_up(program.kernels).flops == 2 * 256 * 256 * 128
    # Those that XLA writes itself can be looked into.
    assert any("fusion" in name for name in program.ptx)


@needs_plugin
def test_wide_scatters_in_float32_add_four_numbers_at_once():
    def add(x, places, rows):
        return x.at[places].add(rows)

    x, rows = (jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (2**16, 2**14))
    places = jax.ShapeDtypeStruct((2**14,), jnp.int32)
    program = programs.compile_program(add, x, places, rows)
    (scatter,) = (k for k in program.kernels if "scatter" in k.ops)
    assert set(h200.measure_atomics(program, scatter)) == {4}


@pytest.mark.parametrize(
    ("ptx", "expected"),
    [
        ("atom.global.v4.f32.add {%r1, %r2, %r3, %r4}, [%rd1], {...};", [4]),
        ("atom.relaxed.sys.global.add.noftz.bf16 %rs1, [%rd1], %rs2;", [1]),
        ("red.global.add.f32 [%rd1], %r1;", [1]),
        ("atom.relaxed.sys.global.cas.b32 %r1, [%rd1], %r2, %r3;", []),
    ],
)
def test_atomic_additions_are_told_from_compare_and_swap(ptx, expected):
    kernel = hlo.Kernel("scatter.1", "input fusion", "f32[]", 0, 0, 0, 1, {})
    program = programs.Program([kernel], {"scatter_1": ptx}, 0, 0.0)
    assert h200.measure_atomics(program, kernel) == expected
    found = h200.describe_program(program)["compare-and-swap"]
    assert found == (not expected)


def test_parts_of_a_detector_share_its_time():
    def kernel(source, num_bytes):
        kind, shape = "input fusion", "f32[]"
        return hlo.Kernel("x", kind, shape, num_bytes, 0, 0, 1, {}, source)

    # A tenth of the time each, as bytes at the bandwidth of the memory take.
    tenth = 10**9
    kernels = [
        kernel("jit(step)/jvp(backbone)/add", 4 * tenth),
        kernel("jit(step)/transpose(jvp(backbone))/vmap(jit(relu))/mul", tenth),
        kernel("jit(step)/vmap(post-processing)/sort", 2 * tenth),
        kernel("jit(step)/headstone/add", 3 * tenth),
    ]
    parts = h200.measure_parts(kernels)
    assert sum(parts.values()) == pytest.approx(100)
    found = {name: value for name, value in parts.items() if value}
    assert found == pytest.approx(
        {"% backbone": 50, "% post-processing": 20, "% other": 30}
    )


@needs_plugin
@pytest.mark.slow
@pytest.mark.parametrize("work", ["forward", "train"])
def test_a_model_moves_more_than_the_minimum(work):
    rows = h200.measure_model("litv2_s", work, 8, 128, **SIZES)
    found = {row.quantity: row.value for row in rows}
    assert found["GB moved"] > found["minimum GB"] > 0
    assert found["temporary GiB"] > 0
    assert found["grouped convolutions"] == 0


@needs_plugin
@pytest.mark.slow
def test_the_command_writes_what_it_found(tmp_path):
    path = tmp_path / "h200.json"
    options = f"--work forward --batch-size 2 --image-size 64 --output {path}"
    command.main(["h200", *options.split()])
    rows, run = read_json(path)
    assert {row.part for row in rows} == {"forward"}
    assert run["target"] == "H200 (compiled without one)"


@needs_plugin
def test_augmentation_is_counted_alone():
    rows = h200.measure_augmentation(4, 64)
    names = ("RandAugment", "random erasing")
    assert tuple(dict.fromkeys(row.name for row in rows)) == names
    moved = {row.name: row.value for row in rows if row.quantity == "GB moved"}
    pixels = 4 * 64 * 64 * 3 / 1e9
    # Reads bytes and writes them; reads them and writes float32.
    assert moved["RandAugment"] > 2 * pixels
    assert moved["random erasing"] > 5 * pixels


def difference(**sizes):
    """Returns the bytes of one image that a deeper model moves more, by the work."""
    deeper = BackboneConfig(**SIZES | sizes, alpha=0.5)
    found = []
    for work in ("forward", "train"):
        # The bytes of parameters do not depend on the number of images.
        two, one = (
            minimum_bytes(deeper, IMAGE, batch, work)
            - minimum_bytes(CONFIG, IMAGE, batch, work)
            for batch in (2, 1)
        )
        found.append((two - one, one - (two - one)))
    return found


def test_the_minimum_of_a_feed_forward_layer_is_that_counted_by_hand():
    (forward, weights), (train, weights_in_training) = difference(depths=(2, 1, 1, 1))
    tokens, dim, hidden = 16 * 16, 8, 32
    norm, expand = dim + dim, dim + hidden
    depthwise, project = hidden + hidden, hidden + dim + dim
    assert forward == tokens * 2 * (norm + expand + depthwise + project)
    # Gradients of the input and of the weights, for both products.
    backward = (dim + hidden) + (dim + hidden)
    backward += 3 * hidden
    backward += (hidden + dim) + (hidden + dim)
    backward += 4 * dim
    assert train - forward == tokens * 2 * backward

    count = 2 * 8 + (8 * 32 + 32) + (9 * 32 + 32) + (32 * 8 + 8)
    assert weights == 4 * count
    # Read twice, gradient written and read twice, three arrays read and written.
    assert weights_in_training == 4 * count * (2 + 3 + 6)


def test_the_minimum_of_attention_is_that_counted_by_hand():
    feed_forward = difference(depths=(2, 1, 1, 1))[0][0]
    (forward, _), _ = difference(depths=(1, 1, 2, 1))
    tokens, dim = 4 * 4, 32
    # The same layer on a sixteenth of the positions, four times as wide.
    forward -= feed_forward * 4 // 16
    high = low = 16
    averages = dim // 4
    channels = 2 * dim  # Norm.
    channels += dim + averages  # Averages of windows.
    channels += dim + 3 * high + low  # First product.
    channels += averages + 2 * low // 4  # Keys and values of Lo-Fi.
    channels += 3 * high + high  # Hi-Fi.
    channels += low + 2 * low // 4 + low  # Lo-Fi.
    channels += 3 * dim  # Output.
    assert forward == tokens * 2 * channels


def test_minimum_in_proportion():
    forward, train = (
        minimum_bytes(BackboneConfig(), 224, 256, work) for work in ("forward", "train")
    )
    assert 2 * forward < train < 4 * forward
    with pytest.raises(ValueError, match="'backward' is unknown; use forward or train"):
        minimum_bytes(CONFIG, 64, 1, "backward")


@needs_plugin
@pytest.mark.slow
@pytest.mark.parametrize("work", scaling.WORK)
@pytest.mark.parametrize("recipe", scaling.RECIPES)
def test_steps_are_compiled_for_several_hosts(recipe, work):
    deviceless.find_h200s(16)
    config = scaling.RECIPES[recipe].get_config("litv2_s")
    config.model.dtype, config.model.sizes = "bfloat16", SIZES
    config.batch_size = 32
    if recipe == "classification":
        # Images of one GPU; those of others would have to be sent.
        config.augment.mix_group_size = 2
    text = scaling.compile_step(config, work, 16)
    rows = scaling.describe_step("part", text, 16, 512, 2)
    found = {row.quantity: row.value for row in rows}
    assert {row.name for row in rows} == {"512 GPUs, program for 16"}
    assert (found["all-reduce MB"] > 0.1) == (work == "train")
    assert 0 < found["ms waiting"] <= found["ms exchanging"]
    assert found["images/s"] > 0


def test_hosts_have_eight_gpus_each():
    with pytest.raises(ConfigError, match="no program for 12 GPUs: use 1 to 8"):
        deviceless.find_h200s(12)
