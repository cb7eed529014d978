import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax import use_implementation
from litv2_jax.ops import attention, depthwise
from litv2_jax.ops.implementations import OPERATIONS, Operation

# The numbers are easy to find in the text of a program.
SCALING = {
    "on a CPU": lambda x, y, *, sign: sign * 1234.5 * x + y,
    "elsewhere": lambda x, y, *, sign: sign * 6789.5 * x + y,
}


@pytest.fixture
def scaling(monkeypatch):
    # Which forgets the operation after the test.
    monkeypatch.setitem(OPERATIONS, "scaling", None)
    return Operation("scaling", SCALING, cpu="on a CPU", default="elsewhere")


def test_a_cpu_runs_its_implementation(scaling):
    x, y = jnp.ones(2), jnp.full(2, 0.5)
    assert jax.jit(lambda x: scaling(x, y, sign=1))(x).tolist() == [1235.0, 1235.0]
    assert scaling(x, y, sign=-1).tolist() == [-1234.0, -1234.0]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cpu", "on a CPU"), ("cuda", "elsewhere"), ("tpu", "elsewhere")],
)
def test_the_platform_of_the_program_decides(scaling, platform, expected):
    traced = jax.jit(lambda x: scaling(x, x, sign=1)).trace(jnp.ones(2))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    numbers = {"on a CPU": "1.234500e+03", "elsewhere": "6.789500e+03"}
    assert [name for name, number in numbers.items() if number in text] == [expected]


def test_a_choice_holds_on_every_platform_and_ends(scaling):
    with use_implementation(scaling="elsewhere"):
        program = str(jax.make_jaxpr(lambda x: scaling(x, x, sign=1))(jnp.ones(2)))
        with use_implementation(attention="plain"):
            assert float(scaling(jnp.ones(()), jnp.zeros(()), sign=1)) == 6789.5
    assert "6789.5" in program
    assert "platform" not in program
    assert float(scaling(jnp.ones(()), jnp.zeros(()), sign=1)) == 1234.5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"atention": "plain"}, "no operation .* 'atention'.* Did you mean attention?"),
        (
            {"attention": "plane"},
            "no implementation of attention called 'plane'.*n plain",
        ),
    ],
)
def test_unknown_names_are_refused(names, message):
    with (
        pytest.raises(ValueError, match=message),
        use_implementation(depthwise="shifts", **names),
    ):
        pass


def test_every_operation_has_the_implementations_of_its_platforms():
    for name, operation in OPERATIONS.items():
        assert {operation.cpu, operation.default} <= operation.implementations.keys()
        assert operation.name == name


def test_a_whole_model_runs_by_the_implementations_for_export():
    """Depthwise convolutions as such, and plain attention."""
    model = litv2_jax.create_model(
        "litv2_s", rngs=nnx.Rngs(0), embed_dim=24, depths=(1, 1, 1, 1)
    )
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    expected = jax.jit(lambda x: model(x))(images)

    with use_implementation(
        attention="plain", depthwise="convolution", layer_norm="sum"
    ):
        logits = jax.jit(lambda x: model(x))(images)
        program = jax.jit(lambda x: model(x)).lower(images).as_text()

    assert program.count("feature_group_count = 96 :") == 1
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def compile_gradient(platform):
    def loss(x, kernel, bias):
        return depthwise.depthwise_conv3x3_gelu(x, kernel, bias).sum()

    arguments = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2)), jnp.ones(2)
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_only_a_cpu_adds_up_tiles():
    assert "stablehlo.while" in compile_gradient("cpu")
    assert "stablehlo.while" not in compile_gradient("cuda")


def test_only_a_cpu_attends_in_windows_by_matrix_products():
    def run(qkv):
        return attention.attend_in_windows(qkv, num_heads=1, window_size=2, scale=0.5)

    traced = jax.jit(run).trace(jnp.ones((1, 4, 4, 6)))
    texts = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda")
    }
    assert "stablehlo.dot_general" in texts["cpu"]
    assert "stablehlo.dot_general" not in texts["cuda"]
