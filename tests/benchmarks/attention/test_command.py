import multiprocessing
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from benchmarks import __main__ as command
from benchmarks.attention import command as attention
from benchmarks.attention import programs
from benchmarks.attention.layers import (
    LAYERS,
    PUBLISHED,
    count_flops,
    count_hilo_flops,
)
from benchmarks.results import read_json
from litv2_jax.models.hilo import HiLo

FLOAT32 = jnp.float32


def create(name, dim, num_heads, size, dtype=FLOAT32):
    return LAYERS[name](dim, num_heads, size, dtype, nnx.Rngs(0))


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_and_flops_are_the_published_ones(name):
    layer = nnx.eval_shape(lambda: create(name, 768, 12, (14, 14)))
    leaves = jax.tree.leaves(nnx.state(layer, nnx.Param))
    parameters = sum(leaf.size for leaf in leaves)
    assert round(parameters / 1e6, 2) == PUBLISHED[name].parameters
    flops = count_flops(name, 768, 12, (14, 14))
    assert round(flops / 1e6, 2) == PUBLISHED[name].flops


@pytest.mark.parametrize("size", [(14, 28), (9, 15)])
@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {"HiLo"}))
def test_flops_are_those_of_the_program(name, size):
    layer = create(name, 48, 4, size)
    program = jax.make_jaxpr(layer)(jnp.ones((1, *size, 48)))
    counted = sum(count_products(equation) for equation in program.eqns)
    # What is no matrix product: norm, depthwise convolution, normaliser.
    rest = {"SRA": 0.01, "CrossWindow": 0.05, "Performer": 0.01}.get(name, 0)
    flops = count_flops(name, 48, 4, size)
    assert (1 - rest) * flops <= counted <= flops
    assert bool(rest) == (counted < flops)


@pytest.mark.parametrize(("alpha", "window_size"), attention.SETTINGS)
def test_flops_of_hilo_are_those_of_the_program(alpha, window_size):
    settings = {"window_size": window_size, "alpha": alpha}

    def run(x):
        return HiLo(768, 12, **settings, rngs=nnx.Rngs(0))(x)

    program = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((1, 9, 14, 768), FLOAT32))
    counted = sum(count_products(equation) for equation in program.eqns)
    flops = count_hilo_flops(768, 12, (9, 14), **settings)
    # Windows of a few positions may attend without matrix products, and the keys of
    # Lo-Fi may be padded by one.
    assert 0.96 * flops <= counted <= 1.01 * flops


def count_products(equation):
    """Counts the multiplications of matrix products; of alternatives, the most."""
    total = 0
    for parameter in equation.params.values():
        alternatives = parameter if isinstance(parameter, tuple) else (parameter,)
        programs = [p for p in alternatives if hasattr(p, "eqns")]
        total += max((sum(map(count_products, p.eqns)) for p in programs), default=0)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = [equation.invars[0].aval.shape[axis] for axis in contracted]
        total += equation.outvars[0].aval.size * int(np.prod(depth))
    return total


@pytest.mark.parametrize("name", ["Linformer", "Performer", "XCA", "LocalWindow"])
def test_cost_grows_with_the_number_of_positions(name):
    small, large = (count_flops(name, 48, 4, (14, width)) for width in (14, 140))
    assert large == 10 * small
    assert count_flops("MSA", 48, 4, (14, 140)) > 10 * count_flops(
        "MSA", 48, 4, (14, 14)
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows, machine and picture of the shortest possible run of the command."""
    output = tmp_path_factory.mktemp("results") / "attention.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "PUBLISHED_BATCH_SIZE", 1)
        patch.setattr(attention, "SETTINGS", [(0.0, 2), (0.9, 1)])
        options = "--batch-size 1 --sizes 14 --rounds 1 --passes 2 --layers MSA HiLo"
        command.main(["attention", *options.split(), "--output", str(output)])
    rows, run = read_json(output)
    return SimpleNamespace(rows=rows, run=run, picture=output.with_suffix(".png"))


def select(measured, part, quantity):
    return {
        row.name: row.value
        for row in measured.rows
        if (row.part, row.quantity) == (part, quantity)
    }


def test_every_part_is_measured(measured):
    assert {row.part for row in measured.rows} == {
        "published protocol",
        "published table (RTX 3090, i9-10900X)",
        "fair",
        "HiLo",
        "resolution: images/s",
        "resolution: MFLOPs",
        "resolution: MB",
    }
    assert list(select(measured, "fair", "with backward: images/s")) == ["MSA", "HiLo"]
    names = ["alpha 0, window 2", "alpha 0.9, window 1"]
    assert list(select(measured, "HiLo", "forward: images/s")) == names
    assert all(row.value > 0 for row in measured.rows)


def test_the_table_has_our_numbers_beside_the_published_ones(measured):
    published = select(
        measured, "published table (RTX 3090, i9-10900X)", "CPU: ratio to MSA"
    )
    assert list(published) == list(PUBLISHED)
    assert published["HiLo"] == pytest.approx(1029 / 505, rel=1e-4)
    assert select(measured, "published protocol", "ratio to MSA")["MSA"] == 1
    flops = select(measured, "published protocol", "MFLOPs")["HiLo"]
    assert flops == pytest.approx(298.3, abs=0.005)


def test_hilo_that_is_msa_has_its_numbers(measured):
    for quantity in ("parameters (M)", "MFLOPs"):
        settings = select(measured, "HiLo", quantity)
        assert (
            settings["alpha 0.9, window 1"] == select(measured, "fair", quantity)["MSA"]
        )


def test_the_file_says_on_which_device(measured):
    assert measured.run["device"] == "cpu"
    assert (measured.run["dtype"], measured.run["passes"]) == ("float32", 2)
    assert "jax=" in measured.run["versions"]


def test_a_picture_is_drawn(measured):
    with Image.open(measured.picture) as image:
        assert np.asarray(image.convert("RGB")).std() > 10


def measure_memory():
    program = programs.compile_pass(
        LAYERS["MSA"], programs.pass_forward, 28, 2, FLOAT32
    )
    return programs.run_measuring_memory(program)


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="XLA's kernels need no more since jax 0.11"
)
def test_memory_includes_what_xla_does_not_know():
    # In a new process, as this one may have memory left from other tests.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(measure_memory)
    logits = 4 * 2 * 12 * 28**4
    assert found > logits


def test_passes_return_output_gradients_and_what_they_need():
    layer = create("MSA", 24, 4, (4, 6))
    graphdef, params = nnx.split(layer)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 24), np.float32)

    def apply(params, x):
        return nnx.merge(graphdef, params)(x)

    @jax.jit
    def run_all(params, x):
        gradient = jax.grad(lambda z: (apply(params, z) * x).sum())(x)
        directions = (
            programs.pass_forward,
            programs.pass_forward_recording,
            programs.pass_forward_and_backward,
        )
        results = [direction(apply, params, x) for direction in directions]
        return layer(x), gradient, results

    output, expected, results = run_all(params, x)
    y, (y_recorded, kept), (y_trained, gradients) = results
    for found in (y, y_recorded, y_trained):
        np.testing.assert_allclose(found, output, rtol=1e-5, atol=1e-6)
    # The weights of attention are what takes the most memory.
    assert (2, 4, 24, 24) in [leaf.shape for leaf in kept]
    np.testing.assert_allclose(gradients[1], expected, rtol=1e-5, atol=1e-6)
    assert jax.tree.map(jnp.shape, gradients[0]) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("option", ["--batch-size", "--rounds", "--passes", "--sizes"])
def test_numbers_that_are_too_small_are_refused(capsys, option):
    with pytest.raises(SystemExit):
        command.main(["attention", f"{option}=0"])
    message = f"argument {option}: 0 is too small; at least 1 is needed"
    assert message in capsys.readouterr().err
