import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.layers import cases
from benchmarks.layers import command as layers
from benchmarks.results import read_json
from litv2_jax.ops.implementations import OPERATIONS

MODEL = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 3, 6)}
SIZES = {
    "depthwise": [(6, 5)],
    "token merging": [(6, 3, 1.0)],
    "Hi-Fi": [(4, 2, 2)],
    "Lo-Fi": [(9, 5, 2)],
    "product": [(3, 8, 6)],
    "LayerNorm": [(3, 8)],
    "fused inference": [(32, {**MODEL, "num_classes": 5})],
    "RandAugment": [(32,)],
    "erasing": [(32,)],
    "NMS": [(20,)],
    "RoIAlign": [(16, 16, 4, 3)],
}
FORWARD_ALONE = ("fused inference", "RandAugment", "erasing", "NMS")
QUANTITIES = ["difference", "forward: ms", "forward: spread %", "forward: ratio"]
QUANTITIES += [f"with backward: {name}" for name in ("ms", "spread %", "ratio")]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(layers, "SECONDS_PER_TURN", 0.0)
    for part, sizes in SIZES.items():
        monkeypatch.setitem(cases.SIZES, part, sizes)


@pytest.mark.slow
def test_the_command_measures_every_implementation(tmp_path, capsys):
    output = tmp_path / "layers.json"
    options = "--batch-size 2 --rounds 2 --output"
    command.main(["layers", *options.split(), str(output)])
    rows, run = read_json(output)
    assert (run["batch_size"], run["rounds"], run["dtype"]) == (2, 2, "float32")

    names = {part: list_names(rows, part) for part in SIZES}
    depthwise = ["tiled", "pairs", "autodiff", "grouped convolution"]
    assert names == {
        "depthwise": [f"6 x 6 x 5: {name}" for name in depthwise],
        "token merging": [
            f"6 x 6 x 3, offsets 1: {name}" for name in ("in use", "autodiff")
        ],
        "Hi-Fi": ["4 x 4, window 2: batched", "4 x 4, window 2: elementwise"],
        "Lo-Fi": ["9 x 5 x 2 heads: padded", "9 x 5 x 2 heads: plain"],
        "product": ["3 x 3 x 8, to 6: flat", "3 x 3 x 8, to 6: autodiff"],
        "LayerNorm": [f"3 x 3 x 8: {name}" for name in ("matmul", "sum", "flax")],
        "fused inference": [
            f"litv2_s, 32 x 32: {name}"
            for name in ("fused", "whole batch at once", "as it was")
        ],
        "RandAugment": ["32 x 32: scatter", "32 x 32: product"],
        "erasing": ["32 x 32: in use"],
        "NMS": ["20 boxes: in use"],
        "RoIAlign": ["3 boxes: in use"],
    }
    check_quantities(rows)
    printed = capsys.readouterr().out
    assert all(part in printed for part in SIZES)


def list_names(rows, part):
    return list(dict.fromkeys(row.name for row in rows if row.part == part))


def check_quantities(rows):
    for part in SIZES:
        for name in list_names(rows, part):
            found = {
                r.quantity: r.value for r in rows if (r.part, r.name) == (part, name)
            }
            # The original of a fused model is trained elsewhere.
            count = 4 if part in FORWARD_ALONE else 7
            assert list(found) == QUANTITIES[:count]
            assert found["difference"] < 1e-5
            assert found["forward: ms"] > 0
        first = list_names(rows, part)[0]
        ratios = [
            r.value
            for r in rows
            if (r.part, r.name) == (part, first) and r.quantity.endswith("ratio")
        ]
        assert set(ratios) == {1.0}


def create_squares(factor):
    def create(arrays, size):
        @jax.custom_vjp
        def square(x):
            return x * x

        square.defvjp(lambda x: (x * x, x), lambda x, grad: (factor * 2 * x * grad,))
        found = {"used": cases.Implementation(lambda x: x * x)}
        found["other"] = cases.Implementation(square)
        return cases.Case(f"{size}", found, (arrays.maps(size),))

    return create


def test_a_wrong_gradient_is_refused(monkeypatch):
    monkeypatch.setitem(cases.PARTS, "squares", create_squares(1.002))
    with pytest.raises(
        RuntimeError, match="squares, 3: 'other' and 'used' differ by 0.0"
    ):
        layers.measure(["squares"], 2, 1, sizes={"squares": [(3,)]})


def test_what_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setitem(cases.PARTS, "squares", create_squares(np.nan))
    with pytest.raises(
        RuntimeError, match="squares, 3: .* differ by inf of the largest"
    ):
        layers.measure(["squares"], 2, 1, sizes={"squares": [(3,)]})


def test_rounding_is_not_refused(monkeypatch):
    monkeypatch.setitem(cases.PARTS, "squares", create_squares(1.0005))
    rows = layers.measure(["squares"], 2, 1, sizes={"squares": [(3,)]})
    differences = [row.value for row in rows if row.quantity == "difference"]
    np.testing.assert_allclose(differences, [0, 5e-4], rtol=1e-3)


def test_bfloat16_is_compared_but_not_refused():
    rows = layers.measure(["LayerNorm"], 2, 1, "bfloat16")
    differences = [row.value for row in rows if row.quantity == "difference"]
    assert 0 < max(differences) < 0.05


@pytest.mark.parametrize("direction", [layers.FORWARD, cases.WITH_BACKWARD])
def test_what_is_timed_is_the_chosen_window_attention(monkeypatch, direction):
    right = OPERATIONS["window_attention"].implementations["elementwise"]
    monkeypatch.setitem(
        OPERATIONS["window_attention"].implementations,
        "elementwise",
        lambda *args, **kw: 2 * right(*args, **kw),
    )
    case = cases.create_high(cases.Arrays(1, "float32"), 4, 2, 2)
    batched, doubled = run_both(case, direction, "batched", "elementwise")
    for one, other in zip(batched, doubled, strict=True):
        np.testing.assert_allclose(2 * one, other, rtol=1e-5, atol=1e-5)


def test_what_is_timed_is_the_chosen_gradient(monkeypatch):
    right = OPERATIONS["depthwise_gradient"].implementations["pairs"]
    monkeypatch.setitem(
        OPERATIONS["depthwise_gradient"].implementations,
        "pairs",
        lambda *args: 2 * right(*args),
    )
    case = cases.create_depthwise(cases.Arrays(1, "float32"), 4, 3)
    direction = cases.WITH_BACKWARD
    tiled, doubled = run_both(case, direction, "tiled", "pairs")
    # Output, and gradients of input, kernel and bias.
    for one, other in zip(tiled, doubled, strict=True):
        np.testing.assert_allclose(2 * one, other, rtol=1e-5, atol=1e-5)


def run_both(case, direction, *names):
    return [
        jax.tree.leaves(
            layers.compile_one(case.implementations[x], case.arguments, direction)()
        )
        for x in names
    ]


def test_a_choice_that_does_not_exist_is_an_error():
    case = cases.create_high(cases.Arrays(1, "float32"), 4, 2, 2)
    other = case.implementations["batched"]._replace(
        choices={"window_attention": "missing"}
    )
    with pytest.raises(ValueError, match="missing"):
        layers.compile_one(other, case.arguments, layers.FORWARD)


def test_the_implementation_that_takes_longer_has_the_larger_ratio():
    x = jnp.ones((300, 300))
    often = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: y @ x, x))
    once = jax.jit(lambda x: x @ x)
    functions = {"once": lambda: once(x), "often": lambda: often(x)}
    found = layers.time_all(functions, 5)
    assert found["once"]["ratio"] == 1
    assert found["often"]["ratio"] > 3
    assert found["often"]["ms"] > found["once"]["ms"] > 0


@pytest.mark.parametrize("option", ["--batch-size", "--rounds"])
def test_numbers_that_are_too_small_are_refused(capsys, option):
    with pytest.raises(SystemExit):
        command.main(["layers", f"{option}=0"])
    message = f"argument {option}: 0 is too small; at least 1 is needed"
    assert message in capsys.readouterr().err
