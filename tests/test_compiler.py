from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import litv2_jax
from litv2_jax import compiler
from litv2_jax.settings import ConfigError


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


def test_a_gpu_leaves_products_to_cublas(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler.compiler_options.cache_clear()
    assert compiler.compiler_options() == {"xla_gpu_enable_triton_gemm": False}


def test_other_platforms_are_given_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    compiler.compiler_options.cache_clear()
    assert compiler.compiler_options() == {}


@pytest.fixture
def jax_settings(monkeypatch):
    """Collects what is set, and sets nothing."""
    settings = {}
    monkeypatch.setattr(compiler.jax.config, "update", settings.__setitem__)
    return settings


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch, jax_settings):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    directory = compiler.enable_compilation_cache()
    assert directory.parent == tmp_path / "xdg" / "litv2_jax" / "compilation"
    assert directory.is_dir()
    assert jax_settings["jax_compilation_cache_dir"] == str(directory)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    assert compiler.enable_compilation_cache().parent == tmp_path / "jax"
    given = compiler.enable_compilation_cache(tmp_path / "given")
    assert given.parent == tmp_path / "given"


def test_processors_of_other_kinds_have_caches_of_their_own(monkeypatch):
    name = compiler._describe_processor()
    assert name == compiler._describe_processor()
    monkeypatch.setattr(Path, "read_text", lambda path: "flags\t: sse2\n")
    assert name != compiler._describe_processor()


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, jax_settings):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name another folder with --compilation-cac"):
        compiler.enable_compilation_cache(tmp_path / "file" / "cache")
    assert not jax_settings
