import jax
import jax.numpy as jnp
import pytest

from litv2_jax.ops import attention, depthwise, forms, layer_norm
from litv2_jax.ops.forms import FASTEST, run_fastest

# The numbers are easy to find in the text of a program.
FORMS = {
    "on a CPU": lambda x, y: 1234.5 * x + y,
    "elsewhere": lambda x, y: 6789.5 * x + y,
}


@pytest.fixture(autouse=True)
def operation(monkeypatch):
    monkeypatch.setitem(forms.FASTEST, "scaling", ("on a CPU", "elsewhere"))


def run(x, y):
    return run_fastest("scaling", FORMS, x, y)


def test_a_cpu_runs_its_form():
    x, y = jnp.ones(2), jnp.full(2, 0.5)
    assert jax.jit(lambda x: run(x, y))(x).tolist() == [1235.0, 1235.0]
    assert run(x, y).tolist() == [1235.0, 1235.0]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cpu", "on a CPU"), ("cuda", "elsewhere"), ("tpu", "elsewhere")],
)
def test_the_platform_of_the_program_decides(platform, expected):
    traced = jax.jit(lambda x: run(x, x)).trace(jnp.ones(2))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    numbers = {"on a CPU": "1.234500e+03", "elsewhere": "6.789500e+03"}
    assert [name for name, number in numbers.items() if number in text] == [expected]


def test_one_form_for_all_leaves_no_choice(monkeypatch):
    monkeypatch.setitem(forms.FASTEST, "scaling", ("elsewhere", "elsewhere"))
    # A new function, because JAX remembers what it has traced.
    program = str(jax.make_jaxpr(lambda x: run(x, x))(jnp.ones(2)))
    assert "6789.5" in program
    assert "cond" not in program
    assert "platform" not in program


def test_every_form_that_is_named_exists():
    known = {
        "attention": attention.ATTENTION_FORMS,
        "depthwise_gradient": depthwise.GRADIENT_FORMS,
        "layer_norm": layer_norm.FORMS,
        "window_attention": attention.WINDOW_FORMS,
        "scaling": FORMS,
    }
    assert known.keys() == FASTEST.keys()
    for operation, names in FASTEST.items():
        assert set(names) <= known[operation].keys()


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
