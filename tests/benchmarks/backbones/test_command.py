import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import plot, results
from benchmarks.backbones import command as backbones
from benchmarks.backbones.published import BACKBONES
from benchmarks.programs import Case
from benchmarks.results import Row
from benchmarks.torch_peer.peer import TorchPeer
from tests.benchmarks.model import test_command as model

PART = "forward, batch 1, float32"


class FakePeer(model.FakePeer):
    """Has timm, and models of one size; takes a second for every call."""

    def describe(self):
        return {**super().describe(), "timm": "8.8"}

    def count(self, variant, image_size):
        return {"num_parameters": 3_000_000, "multiply_adds": 10**9 * image_size}


class SteadyWork(model.SteadyWork):
    """Runs a small model, but takes two milliseconds for every call."""

    def __init__(self, case):
        sizes = (case.variant, case.work, case.batch_size, 32, case.dtype, model.SIZES)
        super().__init__(Case(*sizes))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows, description and path of a run of the command with a small model."""
    FakePeer.jobs, FakePeer.ended = [], []
    output = tmp_path_factory.mktemp("results") / "backbones.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "PreparedWork", SteadyWork)
        patch.setattr(backbones, "TorchPeer", FakePeer)
        patch.setattr("benchmarks.model.command.SECONDS_PER_TURN", 0.0)
        options = "--models LITv2-S Swin-T --batch-sizes 1 --rounds 3"
        options += " --torch-python other"
        command.main(["backbones", *options.split(), "--output", str(output)])
    return *results.read_json(output), output


def test_our_model_is_beside_the_others(measured):
    rows, _, _ = measured
    ours = model.select(rows, PART, "LITv2-S: litv2_jax")
    assert (ours["ms"], ours["images/s"]) == (2, 500)
    assert "ratio" not in ours
    swin = model.select(rows, PART, "Swin-T: torch eager")
    assert (swin["ms"], swin["ratio"], swin["CPU ratio"]) == (1e6, 500_000, 500_000)
    assert (swin["parameters M"], swin["GFLOPs"], swin["peak MB"]) == (3, 224, 7)
    assert "peak MB" not in model.select(rows, PART, "Swin-T: torch compile")
    assert list(dict.fromkeys(row.name for row in rows)) == [
        "LITv2-S: litv2_jax",
        "LITv2-S: torch eager",
        "LITv2-S: torch compile",
        "Swin-T: torch eager",
        "Swin-T: torch compile",
    ]


def test_our_sizes_are_those_that_this_package_counts(measured):
    ours = model.select(measured[0], PART, "LITv2-S: litv2_jax")
    assert ours["parameters M"] == pytest.approx(27.844, abs=1e-3)
    assert ours["GFLOPs"] == pytest.approx(3.73, abs=0.01)


def test_accuracies_are_the_published_ones_and_have_a_source(measured):
    rows, run, _ = measured
    assert model.select(rows, PART, "LITv2-S: litv2_jax")[backbones.TOP1] == 82.0
    assert model.select(rows, PART, "Swin-T: torch eager")[backbones.TOP1] == 81.3
    assert run["published"].keys() == BACKBONES.keys()
    assert all(source.startswith("arXiv:") for source in run["published"].values())


def test_pytorch_does_the_same_work_and_ends(measured):
    names = ["litv2_s"] * 2 + ["timm/swin_tiny_patch4_window7_224"] * 2
    assert [job["variant"] for job in FakePeer.jobs] == names
    assert [job["configuration"] for job in FakePeer.jobs] == ["eager", "compile"] * 2
    assert {(j["work"], j["batch_size"], j["image_size"]) for j in FakePeer.jobs} == {
        ("forward", 1, 224)
    }
    # One process counts.
    assert [peer.python for peer in FakePeer.ended] == [("other",)] * 5
    assert measured[1]["torch timm"] == "8.8"


def test_a_picture_is_drawn(measured):
    with Image.open(measured[2].with_suffix(".png")) as image:
        assert np.asarray(image.convert("RGB")).std() > 10


def test_a_picture_has_a_point_for_each_way_to_run_a_model(tmp_path, monkeypatch):
    points = []
    scatter = plot.Axes.scatter

    def record(axes, x, y, **options):
        points.append((options["label"], x, y, options["color"], options["marker"]))
        return scatter(axes, x, y, **options)

    monkeypatch.setattr(plot.Axes, "scatter", record)
    rows = [
        Row("forward", name, quantity, value)
        for name, speed, top1 in (
            ("a: x", 8.0, 82.0),
            ("a: y", 4.0, 82.0),
            ("b: y", 2, 81),
        )
        for quantity, value in (("images/s", speed), ("published top-1 %", top1))
    ]
    path = tmp_path / "backbones.json"
    results.write_json(rows, {"device": "cpu", "cpu": "some", "cores": 2}, path)
    assert plot.draw_accuracy(path) == tmp_path / "backbones.png"
    first, second = plot.COLORS[:2]
    assert points == [
        ("a: x", 8, 82, first, "s"),
        ("a: y", 4, 82, first, "^"),
        ("b: y", 2, 81, second, "^"),
    ]


def test_a_picture_has_room_for_every_name(tmp_path):
    ways = ("torch eager", "torch compile", "torch compile_channels_last")
    rows = [
        Row("forward", f"{name}: {way}", quantity, 82.0)
        for name in BACKBONES
        for way in ways
        for quantity in ("images/s", "published top-1 %")
    ]
    path = tmp_path / "backbones.json"
    results.write_json(rows, {"device": "cpu", "cpu": "some", "cores": 2}, path)
    model.check_nothing_is_cut_off(plot.draw_accuracy(path))


def test_without_timm_it_says_what_to_do(monkeypatch):
    model.FakePeer.ended = []
    monkeypatch.setattr(backbones, "TorchPeer", model.FakePeer)
    message = "other has no timm: pip install timm, or name .* with --torch-python"
    with pytest.raises(SystemExit, match=message):
        command.main(["backbones", "--torch-python", "other"])
    assert len(model.FakePeer.ended) == 1


def test_a_model_that_is_not_compared_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["backbones", "--models", "Focal-T"])
    assert "invalid choice: 'Focal-T'" in capsys.readouterr().err


needs_timm = pytest.mark.skipif(
    "TIMM_PYTHON" not in os.environ,
    reason="TIMM_PYTHON names no Python that has PyTorch and timm",
)


@needs_timm
@pytest.mark.slow
def test_it_runs_with_timm(tmp_path):
    output = tmp_path / "backbones.json"
    options = "--models ResNet-50 Twins-SVT-S --configurations eager --batch-sizes 1"
    options += f" --rounds 1 --torch-python {os.environ['TIMM_PYTHON']}"
    command.main(["backbones", *options.split(), "--output", str(output)])
    rows, run = results.read_json(output)
    for name in ("ResNet-50", "Twins-SVT-S"):
        found = model.select(rows, PART, f"{name}: torch eager")
        assert min(found["ms"], found["ratio"], found["compile s"]) > 0
    assert run["torch timm"]


@pytest.fixture(scope="module")
def peer():
    with TorchPeer(os.environ["TIMM_PYTHON"]) as peer:
        yield peer


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("LITv2-S", 27.8, 3.7),
        ("ResNet-50", 25.6, 4.1),
        ("ConvNeXt-T", 28.6, 4.5),
        ("Swin-T", 28.3, 4.5),
        ("Twins-SVT-S", 24.1, 2.9),
        ("PVTv2-B2", 25.4, 4.0),
    ],
)
def test_sizes_are_the_published_ones(peer, name, parameters, flops):
    found = peer.count(BACKBONES[name].torch_name, 224)
    assert found["num_parameters"] / 1e6 == pytest.approx(parameters, abs=0.06)
    assert found["multiply_adds"] / 1e9 == pytest.approx(flops, abs=0.06)
