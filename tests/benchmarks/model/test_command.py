import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import plot, results
from benchmarks.model import command as model
from benchmarks.programs import Case, create_forward
from benchmarks.results import Row, read_json
from benchmarks.torch_peer.peer import CONFIGURATIONS
from benchmarks.work import PreparedWork, describe_model, find_size

SIZES = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 3, 6)}


def create_case(batch_size):
    return Case("litv2_s", "forward", batch_size, 32, "float32", SIZES)


@pytest.fixture(scope="module")
def forward():
    return PreparedWork(create_case(1))


def test_a_call_takes_time(forward):
    found = forward.time(3)
    assert found.keys() == {"seconds", "cpu_seconds"}
    assert min(found.values()) > 0
    assert forward.compile_seconds > 0


def test_time_is_that_of_one_call(forward, monkeypatch):
    calls = []
    monkeypatch.setattr(forward, "_compiled", lambda *_: calls.append(1))
    # All of them together take longer than this.
    assert forward.time(2000)["seconds"] < 0.01
    assert len(calls) == 2000


def test_forward_returns_logits_of_every_image():
    function, arguments = create_forward(create_case(3))
    assert jax.eval_shape(function, *arguments).shape == (3, 1000)


@pytest.mark.slow
def test_updates_go_on_from_the_last():
    # Without attention, to compile less.
    sizes = {**SIZES, "window_sizes": (0, 0, 0, 0)}
    work = PreparedWork(Case("litv2_s", "train", 2, 32, "float32", sizes))
    before = jax.tree.map(np.array, work._arguments[0])
    assert min(work.time(2).values()) > 0
    after = jax.tree.map(np.array, work._arguments[0])
    assert after.step == before.step + 2
    # Scales that are one are too large for the small steps of the warm-up, and a bias
    # before BatchNorm has no gradient.
    changed = jax.tree.map(lambda x, y: (x != y).any(), before.params, after.params)
    assert np.mean(jax.tree.leaves(changed)) > 0.7


def test_a_model_is_described_by_its_published_size():
    found = {row.quantity: row.value for row in describe_model("litv2_s")}
    assert found["pixels"] == 224
    assert found["parameters M"] == pytest.approx(28, abs=0.5)
    assert found["GFLOPs as published"] == pytest.approx(3.7, abs=0.05)


class SteadyWork(PreparedWork):
    """Runs, but takes two milliseconds for every call, and three without options."""

    def __init__(self, case, *, with_options=True):
        super().__init__(case, with_options=with_options)
        self.seconds = 2e-3 if with_options else 3e-3

    def time(self, calls):
        super().time(calls)
        return {"seconds": self.seconds, "cpu_seconds": 2 * self.seconds}


class FakePeer:
    """Takes a second for every call, of one core of two."""

    def __init__(self, *python):
        self.python = python

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        type(self).ended.append(self)

    def describe(self):
        return {"torch": "9.9", "threads": 2}

    def prepare(self, name, job):
        type(self).jobs.append(job)
        return {"prepare_seconds": 5.0, "peak_bytes": 7e6 if name == "eager" else None}

    def time(self, name, calls):
        return {"seconds": 1000.0, "cpu_seconds": 2000.0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows, description and folder of a run of the command with a small model."""
    FakePeer.jobs, FakePeer.ended = [], []
    output = tmp_path_factory.mktemp("results") / "model.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "Case", lambda *args: Case(*args, SIZES))
        patch.setattr(model, "PreparedWork", SteadyWork)
        patch.setattr(model, "TorchPeer", FakePeer)
        patch.setattr(model, "SECONDS_PER_TURN", 0.0)
        patch.setattr(model, "PUBLISHED_PASSES", 2)
        options = "--variants litv2_s --batch-sizes 1 --rounds 3 --image-size 32"
        options += " --published --without-options --torch-python other"
        options += " --against-torch eager compile"
        command.main(["model", *options.split(), "--output", str(output)])
    return *read_json(output), output


def select(rows, part, name):
    return {r.quantity: r.value for r in rows if (r.part, r.name) == (part, name)}


def test_ours_and_theirs_are_in_one_table(measured):
    rows, _, _ = measured
    part = "forward, batch 1, float32"
    ours = select(rows, part, "litv2_s")
    assert (ours["ms"], ours["images/s"]) == (2, 500)
    assert ours["images/s, 30 passes"] == 500
    assert "ratio" not in ours
    plain = select(rows, part, "litv2_s: litv2_jax without options")
    assert (plain["ratio"], plain["CPU ratio"]) == (1.5, 1.5)
    eager = select(rows, part, "litv2_s: torch eager")
    assert (eager["ms"], eager["compile s"], eager["peak MB"]) == (1e6, 5, 7)
    assert (eager["ratio"], eager["CPU ratio"]) == (500_000, 500_000)
    assert "peak MB" not in select(rows, part, "litv2_s: torch compile")


def test_pytorch_does_the_same_work_and_ends(measured):
    job = {
        "variant": "litv2_s",
        "work": "forward",
        "batch_size": 1,
        "image_size": 32,
        "dtype": "float32",
        "device": "cpu",
    }
    configurations = ["eager", "compile"]
    assert FakePeer.jobs == [{**job, "configuration": x} for x in configurations]
    assert [peer.python for peer in FakePeer.ended] == [("other",)] * 2
    assert measured[1]["torch threads"] == 2


def test_the_published_numbers_are_beside_them(measured):
    rows, _, _ = measured
    found = select(rows, model.PUBLISHED_PART, "litv2_s")
    expected = zip(
        ["images/s", "train peak MB", "forward peak MB", "top-1 %"],
        model.PUBLISHED["litv2_s"],
        strict=True,
    )
    assert found == dict(expected)
    table = results.format_tables(rows)
    assert "1471" in table
    assert "litv2_m" not in table


def test_a_picture_is_drawn(measured):
    with Image.open(measured[2].with_suffix(".png")) as image:
        assert np.asarray(image.convert("RGB")).std() > 10


def test_a_picture_has_a_bar_for_each_way_that_was_measured(tmp_path, monkeypatch):
    heights = []
    draw_bars = plot.Axes.bar

    def record(axes, places, height, *rest, **options):
        heights.append((options["label"], height))
        return draw_bars(axes, places, height, *rest, **options)

    monkeypatch.setattr(plot.Axes, "bar", record)
    rows = [
        Row("forward", name, quantity, value)
        for name, speed in (("a", 8.0), ("b", 4.0), ("a: torch eager", 2.0))
        for quantity, value in (("images/s", speed), ("ms", 1000 / speed))
    ]
    path = tmp_path / "model.json"
    run = {"device": "cpu", "cpu": "some", "cores": 2}
    results.write_json(rows, run, path)
    assert plot.draw_bars(path) == tmp_path / "model.png"
    assert heights == [("litv2_jax", [8.0, 4.0]), ("torch eager", [2.0, 0.0])]


@pytest.mark.parametrize("parts", [["forward"], ["forward", "train"]])
def test_a_picture_has_room_for_every_name(tmp_path, parts):
    ways = ("litv2_jax without options", *(f"torch {x}" for x in CONFIGURATIONS))
    rows = [
        Row(part, name, quantity, 1.0)
        for part in parts
        for name in ("litv2_s", *(f"litv2_s: {way}" for way in ways))
        for quantity in ("images/s", "ms")
    ]
    path = tmp_path / "model.json"
    results.write_json(rows, {"device": "cpu", "cpu": "some", "cores": 2}, path)
    check_nothing_is_cut_off(plot.draw_bars(path))


def check_nothing_is_cut_off(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    # What has no room is cut off at an edge.
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 255


def test_ratios_are_medians_of_what_rounds_had():
    def times(*pairs):
        return [{"seconds": wall, "cpu_seconds": cpu} for wall, cpu in pairs]

    rows = model.summarize(
        create_case(6),
        "part",
        {
            model.OURS: times((1.0, 2.0), (2.0, 2.0), (3.0, 2.0)),
            # Two, three and one times ours; four, two and three of all cores.
            "torch eager": times((2.0, 8.0), (6.0, 4.0), (3.0, 6.0)),
        },
        {model.OURS: {"peak MB": None}, "torch eager": {"peak MB": 1.0}},
    )
    assert select(rows, "part", "litv2_s") == {
        "images/s": 3.0,
        "ms": 2000.0,
        "spread %": 50.0,
    }
    assert select(rows, "part", "litv2_s: torch eager") == {
        "images/s": 2.0,
        "ms": 3000.0,
        "spread %": pytest.approx(100 * (4.5 - 2.5) / 3),
        "peak MB": 1.0,
        "ratio": 2.0,
        "CPU ratio": 3.0,
    }


def test_an_unknown_model_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["model", "--variants", "litv2_xl"])
    message = capsys.readouterr().err
    assert "invalid choice: 'litv2_xl'" in message
    assert "litv2_b_384" in message


@pytest.mark.parametrize(
    ("name", "size"),
    [("litv2_m", 224), ("litv2_b_384", 384), ("semantic_fpn_litv2_s", 512)],
)
def test_images_are_of_the_published_size(name, size):
    assert find_size(name) == size


def test_segmentation_chooses_a_class_for_each_pixel():
    function, arguments = create_forward(
        Case("semantic_fpn_litv2_s", "forward", 2, 32, "float32", SIZES)
    )
    assert jax.eval_shape(function, *arguments).shape == (2, 32, 32)


@pytest.mark.parametrize("option", ["--against-torch", "--work=train"])
def test_segmentation_is_timed_forward_and_alone(option):
    with pytest.raises(SystemExit, match="can be timed forward and without PyTorch"):
        command.main(["model", "--variants", "semantic_fpn_litv2_s", option])
