import pytest

from benchmarks import __main__ as command
from benchmarks.hlo import list_kernels
from benchmarks.profile import command as profile
from benchmarks.programs import Case
from benchmarks.results import read_json
from benchmarks.work import PreparedWork

SIZES = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 3, 6)}
PROGRAM = """HloModule jit_f

%product (a: f32[2,2]) -> f32[2,2] {
  %a = f32[2,2]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}
}

%sum (b: f32[2,2]) -> f32[2,2] {
  %b = f32[2,2]{1,0} parameter(0)
  ROOT %add.1 = f32[2,2]{1,0} add(%b, %b)
}

%again (c: f32[2,2]) -> f32[2,2] {
  %c = f32[2,2]{1,0} parameter(0)
  ROOT %add_fusion.12 = f32[2,2]{1,0} fusion(%c), kind=kLoop, calls=%sum
}

ENTRY %main (x: f32[2,2]) -> f32[2,2] {
  %x = f32[2,2]{1,0} parameter(0)
  %ynn_fusion.3 = f32[2,2]{1,0} fusion(%x), kind=kCustom, calls=%product
  %dot.7 = f32[2,2]{1,0} dot(%ynn_fusion.3, %x), lhs_contracting_dims={1}
  %copy.1 = f32[2,2]{1,0} copy(%dot.7)
  ROOT %while.2 = f32[2,2]{1,0} while(%copy.1), body=%again
}
"""


def test_kinds_are_those_of_what_runs():
    found = {x.name: profile.find_kind(x) for x in list_kernels(PROGRAM)}
    assert found == {
        "ynn_fusion.3": profile.PRODUCTS,
        "dot.7": profile.PRODUCTS,
        "copy.1": "copy",
        "add_fusion.12": "add_fusion",
    }


@pytest.mark.slow
def test_a_model_multiplies_most():
    case = Case("litv2_s", "forward", 2, 64, "float32", SIZES)
    times = profile.profile(PreparedWork(case), calls=2)
    assert min(times.values()) > 0
    assert times[profile.PRODUCTS] > 0
    # Convolutions and norms are there, too.
    assert len(times) > 5


def test_pytorchs_products_count_as_one_kind():
    times = {"aten::mm": 1.0, "aten::addmm": 2.0, "aten::gelu": 4.0}
    assert profile._join_products(times) == {profile.PRODUCTS: 3.0, "aten::gelu": 4.0}


def test_the_command_writes_shares_of_the_whole(monkeypatch, tmp_path, capsys):
    times = {f"kind {i}": float(i) for i in range(1, 21)}
    monkeypatch.setattr(profile, "PreparedWork", lambda case: case)
    monkeypatch.setattr(profile, "profile", lambda case, calls: times)
    command.main(["profile", "--output", str(tmp_path / "profile.json")])
    rows = {(row.name, row.quantity): row.value for row in _read(tmp_path)}
    assert rows["all", "ms"] == pytest.approx(sum(times.values()))
    assert rows["kind 20", "%"] == pytest.approx(100 * 20 / 210, rel=1e-5)
    assert rows["all others", "ms"] == pytest.approx(sum(range(1, 9)))
    assert "kind 20" in capsys.readouterr().out


def _read(folder):
    return read_json(folder / "profile.json")[0]


def test_a_gpu_has_other_profilers(monkeypatch):
    monkeypatch.setattr(profile.jax, "default_backend", lambda: "gpu")
    with pytest.raises(SystemExit, match="TensorBoard"):
        command.main(["profile"])
