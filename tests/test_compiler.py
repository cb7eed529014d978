from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import litv2_jax
from litv2_jax import compiler
from litv2_jax.settings import ConfigError


@pytest.fixture(autouse=True)
def forget():
    compiler._choose_options.cache_clear()
    yield
    compiler._choose_options.cache_clear()


def test_a_cpu_has_options_that_xla_takes():
    options = litv2_jax.compiler_options()
    assert options
    run = jax.jit(lambda x: jnp.sin(x).sum(), compiler_options=options)
    assert run(jnp.zeros(3)) == 0


def test_options_that_this_xla_lacks_are_left_out(monkeypatch):
    known = {"xla_cpu_prefer_vector_width": 512}
    unknown = {"xla_cpu_make_it_fast": True, "xla_cpu_opt_preset": "UNHEARD_OF"}
    monkeypatch.setattr(compiler, "_CPU_OPTIONS", known | unknown)
    assert compiler.compiler_options() == known


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("platform", "expected"),
    [("gpu", {"xla_gpu_enable_triton_gemm": False}), ("tpu", {})],
)
def test_other_platforms_have_options_of_their_own(
    monkeypatch, platform, expected, dtype
):
    """The GPU leaves products to cuBLAS."""
    assert compiler.compiler_options(dtype, platform) == expected
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert compiler.compiler_options(dtype) == expected


@pytest.mark.parametrize("features", ["flags : avx2", "flags : avx512_bf16 avx2"])
def test_products_in_bfloat16_are_onednns_on_cpus_with_units_for_them(
    monkeypatch, features
):
    monkeypatch.setattr(compiler, "_read_features", lambda: features)
    exact, options = map(compiler.compiler_options, ("float32", jnp.bfloat16))
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)
    program = jax.jit(jnp.matmul, compiler_options=options).lower(x, x).compile()
    is_onednn = "__onednn$matmul" in program.as_text()
    # jax 0.12 was the first that has it.
    has_onednn = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 12)
    assert is_onednn == (has_onednn and "avx512_bf16" in features)
    assert is_onednn == (options != exact)
    # A caller may change what it gets.
    options.clear()
    assert compiler.compiler_options(jnp.bfloat16)


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
