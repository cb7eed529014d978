import jax
import jax.numpy as jnp
import pytest

import litv2_jax
from litv2_jax import compiler


@pytest.fixture(autouse=True)
def forget():
    yield
    compiler.compiler_options.cache_clear()


def test_a_cpu_has_options_that_xla_takes():
    options = litv2_jax.compiler_options()
    assert options
    run = jax.jit(lambda x: jnp.sin(x).sum(), compiler_options=options)
    assert run(jnp.zeros(3)) == 0


def test_options_that_this_xla_lacks_are_left_out(monkeypatch):
    known = {"xla_cpu_prefer_vector_width": 512}
    unknown = {"xla_cpu_make_it_fast": True, "xla_cpu_opt_preset": "UNHEARD_OF"}
    monkeypatch.setattr(compiler, "_CPU_OPTIONS", known | unknown)
    compiler.compiler_options.cache_clear()
    assert compiler.compiler_options() == known


def test_a_gpu_is_given_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler.compiler_options.cache_clear()
    assert compiler.compiler_options() == {}
