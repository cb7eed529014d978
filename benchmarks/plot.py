"""Draws results as a PNG beside the JSON file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import results
from benchmarks.results import Row

# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7")
COLORS += ("#000000", "#7F7F7F", "#8C6D31")
MARKERS = "s^v<>XDPo"
# Of the longest way to run a model, in inches.
NAME_WIDTH = 2.6


class Panel(NamedTuple):
    """A quantity that changes with the size of a map.

    Attributes:
        part: Of the rows, whose quantities are sizes such as `14 x 14`.
        title: Name and unit.
        scale: Of the values: `linear` or `log`.
        adapt: Turns a value into what is drawn, given the number of positions.
    """

    part: str
    title: str
    scale: str
    adapt: Callable[[float, int], float]


def draw_bars(path: Path) -> Path:
    """Draws the images/s of each part of a file: bars for each way to run a model."""
    rows, run = results.read_json(path)
    # A published part has no times of single calls.
    parts = list(dict.fromkeys(row.part for row in rows if row.quantity == "ms"))
    width = 4.2 * len(parts)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    _draw_parts(figure, rows, parts, _draw_bars, "images per second")
    return _finish(figure, path, _name_machine(run), int(width / NAME_WIDTH))


def draw_lines(path: Path, panels: Sequence[Panel], title: str) -> Path:
    """Draws a panel of lines for each quantity of a file, over the size of the map."""
    rows, _ = results.read_json(path)
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_lines(axes, [row for row in rows if row.part == panel.part], panel)
    return _finish(figure, path, title, len(COLORS))


def draw_accuracy(path: Path) -> Path:
    """Draws the published accuracies of a file over images/s, a panel for each part.

    Rows are named `MODEL: WAY`; a color is a model, a marker the way to run it.
    """
    rows, run = results.read_json(path)
    parts = list(dict.fromkeys(row.part for row in rows))
    figure = Figure(figsize=(8 * len(parts), 6), layout="constrained")
    label = "top-1 accuracy on ImageNet as published, %"
    _draw_parts(figure, rows, parts, _draw_accuracy, label)
    return _finish(figure, path, _name_machine(run), 2 * len(parts))


def _draw_parts(
    figure: Figure,
    rows: Sequence[Row],
    parts: Sequence[str],
    draw: Callable[[Axes, Sequence[Row]], None],
    label: str,
) -> None:
    """Draws the rows of each part beside each other, and labels the vertical axis."""
    all_axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(all_axes, parts, strict=True):
        draw(axes, [row for row in rows if row.part == part])
        axes.set_title(part)
    all_axes[0].set_ylabel(label)


def _name_machine(run: Mapping[str, Any]) -> str:
    return f"{run['device']}: {run['cpu']}, {run['cores']} cores"


def _draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    values = {(row.name, row.quantity): row.value for row in rows}
    names = list(dict.fromkeys(row.name for row in rows))
    models = list(dict.fromkeys(name.partition(": ")[0] for name in names))
    ways = list(dict.fromkeys(name.partition(": ")[2] for name in names))
    for name in names:
        model, _, way = name.partition(": ")
        axes.scatter(
            values[name, "images/s"],
            values[name, "published top-1 %"],
            s=90,
            label=name,
            color=COLORS[models.index(model)],
            marker=MARKERS[ways.index(way)],
        )
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("images per second")
    axes.grid(alpha=0.3)


def _draw_bars(axes: Axes, rows: Sequence[Row]) -> None:
    speeds = {row.name: row.value for row in rows if row.quantity == "images/s"}
    models = [name for name in speeds if ": " not in name]
    ways = list(dict.fromkeys(name.partition(": ")[2] for name in speeds))
    width = 0.8 / len(ways)
    for i, way in enumerate(ways):
        names = [f"{model}: {way}" if way else model for model in models]
        places = [j + (i - (len(ways) - 1) / 2) * width for j in range(len(models))]
        heights = [speeds.get(name, 0.0) for name in names]
        bars = axes.bar(
            places, heights, width, color=COLORS[i], label=way or "litv2_jax"
        )
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_xticks(range(len(models)), models)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lines(axes: Axes, rows: Sequence[Row], panel: Panel) -> None:
    sides = sorted({_side(row) for row in rows})
    for i, name in enumerate(dict.fromkeys(row.name for row in rows)):
        values = {_side(row): row.value for row in rows if row.name == name}
        y = [panel.adapt(values[side], side**2) for side in sides]
        width = 3.5 if name == "HiLo" else 1.6
        # Markers and dashes help where colors do not.
        dashes = "--" if "Window" in name else "-"
        axes.plot(
            sides,
            y,
            label=name,
            color=COLORS[-i - 1],
            marker=MARKERS[i],
            linestyle=dashes,
            linewidth=width,
        )
    axes.set_title(panel.title, fontsize=11)
    axes.set_xscale("log")
    axes.set_xticks(sides, [f"{side} x {side}" for side in sides])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Positions of the map")
    axes.set_yscale(panel.scale)
    if panel.scale == "linear":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _finish(figure: Figure, path: Path, title: str, ncols: int) -> Path:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
    figure.suptitle(title)
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    return picture


def _side(row: Row) -> int:
    return int(row.quantity.split(" x ")[0])
