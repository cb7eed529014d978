import logging
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from litv2_jax import pictures
from litv2_jax.pictures import (
    draw_confusion,
    draw_grid,
    draw_maps,
    draw_or_warn,
    draw_overlay,
)

NAMES = [
    "_first$x^2$",
    "50% & 100%",
    "<b>a</b> **b** _c_",
    "$\\frac{1}{0",
    "red\x1b[31m\n",
    "\u732b",
    "\u043a\u043e\u0448\u043a\u0430",
    "\udce9",
    "x" * 300,
]
IMAGE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def texts(monkeypatch):
    """Collects what each figure writes, and makes every warning an error."""
    found = []
    save = Figure.savefig

    def save_and_collect(figure, path, **options):
        save(figure, path, **options)
        artists = [t for axes in figure.axes for t in (axes.title,)]
        artists += [t for legend in figure.legends for t in legend.get_texts()]
        found.extend(text for artist in artists if (text := artist.get_text()))
        assert not any(a.get_parse_math() for a in artists if a.get_text() in SHOWN)

    monkeypatch.setattr(Figure, "savefig", save_and_collect)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield found


SHOWN = [
    *NAMES[:4],
    "red\\x1b[31m\\n",
    "\\u732b",
    NAMES[6],
    "\\udce9",
    "x" * 57 + "...",
]


def without_wide_fonts(monkeypatch):
    monkeypatch.setattr(pictures, "_wide_fonts", lambda: [])


def test_names_of_classes_are_drawn_as_they_are(texts, tmp_path, monkeypatch):
    without_wide_fonts(monkeypatch)
    draw_grid([IMAGE] * len(NAMES), NAMES, ["red"] * len(NAMES), tmp_path / "a.png")
    assert texts == SHOWN
    texts.clear()
    classes = np.arange(1200).reshape(30, 40) % len(NAMES)
    draw_maps([[IMAGE, classes]], ["input", "truth"], NAMES, tmp_path / "b.png")
    assert texts == ["input", "truth", *SHOWN]
    texts.clear()
    draw_overlay(IMAGE, classes, NAMES, tmp_path / "c.png")
    assert sorted(texts) == sorted(SHOWN)
    for name in "abc":
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).std() > 9


def test_a_font_that_has_a_character_is_used_for_it(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_wide_fonts", lambda: ["STIXGeneral"])
    # Matplotlib brings both fonts.
    numbers = pictures._characters("STIXGeneral") - pictures._characters("DejaVu Sans")
    text = f"a{chr(max(numbers))}"
    draw_grid([IMAGE], [text], ["red"], tmp_path / "a.png")
    assert texts == [text]


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (3000, 4000)])
def test_maps_of_any_shape_are_drawn(tmp_path, size):
    classes = (np.arange(size[0] * size[1]).reshape(size) % 3).astype(np.int32)
    image = np.zeros((*size, 3), np.uint8)
    draw_overlay(image, classes, ["a", "b", "c"], tmp_path / "a.png")
    width, height = Image.open(tmp_path / "a.png").size
    assert max(width, height) < 5000
    draw_grid([image], ["a"], ["red"], tmp_path / "b.png")
    draw_maps([[image, classes]], ["x", "y"], ["a", "b", "c"], tmp_path / "c.png")


def test_what_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    def fail():
        raise MemoryError

    with caplog.at_level(logging.WARNING):
        assert not draw_or_warn(fail, tmp_path / "a\x1b.png")
    assert "a\\x1b.png could not be drawn: MemoryError" in caplog.text
    assert draw_or_warn(lambda: None, tmp_path / "b.png")


def test_a_confusion_matrix_names_its_classes(tmp_path):
    counts = np.array([[5, 1], [0, 4]])

    def width(*names):
        draw_confusion(counts, names, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as image:
            pixels = np.asarray(image.convert("L"))
        # Columns left of the matrix, where the names of the labels are.
        first_blue = np.flatnonzero((pixels < 100).sum(0) > 20)[0]
        return int((pixels[:, :first_blue] < 200).any(0).sum())

    assert width("", "") < width("cat", "dog") < width("a rather long name", "dog")
    # No formula, whose signs would not be drawn.
    assert width("$x^2$", "") > 1.2 * width("x2", "")
