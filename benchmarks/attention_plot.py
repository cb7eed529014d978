"""Draws what `python -m benchmarks attention` measured at growing resolution.

python -m benchmarks.attention_plot benchmarks/results/attention.json
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import results


class Panel(NamedTuple):
    """What one of the pictures shows, and how."""

    part: str
    title: str
    scale: str
    # Of the values, given the number of positions of the map.
    adapt: Callable[[float, int], float]


# Per position, what grows with their number stays level and the rest stands out.
PANELS = [
    Panel(
        "resolution: images/s",
        "Speed (thousand positions per second)",
        "linear",
        lambda images, positions: images * positions / 1000,
    ),
    Panel(
        "resolution: MFLOPs",
        "Cost (million FLOPs per position)",
        "linear",
        lambda megaflops, positions: megaflops / positions,
    ),
    Panel(
        "resolution: MB",
        "Memory of the batch (MB)",
        "log",
        lambda megabytes, positions: megabytes,
    ),
]
# Okabe and Ito's colours, which the colour-blind can tell apart. Solid lines attend to
# the whole map, dashed ones inside windows; markers tell apart what is left.
STYLES: dict[str, dict[str, Any]] = {
    "HiLo": {"color": "#D55E00", "marker": "o", "linewidth": 3.5, "zorder": 3},
    "MSA": {"color": "#000000", "marker": "s", "linewidth": 2},
    "SRA": {"color": "#0072B2", "marker": "^"},
    "Linformer": {"color": "#56B4E9", "marker": "v"},
    "Performer": {"color": "#CC79A7", "marker": "D"},
    "XCA": {"color": "#009E73", "marker": "P"},
    "LocalWindow": {"color": "#E69F00", "marker": "<", "linestyle": "--"},
    "ShiftedWindow": {"color": "#7F7F7F", "marker": ">", "linestyle": "--"},
    "CrossWindow": {"color": "#8C6D31", "marker": "X", "linestyle": "--"},
}


def draw(path: Path) -> Path:
    """Draws a file of results as a PNG beside it, and returns where."""
    rows, run = results.read_json(path)
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    all_axes = figure.subplots(1, len(PANELS))
    for axes, panel in zip(all_axes, PANELS, strict=True):
        _draw_panel(axes, [row for row in rows if row.part == panel.part], panel)
    handles, labels = all_axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(STYLES))
    where = f"{run['device']}, {run['dtype']}, batch {run['batch_size']}"
    figure.suptitle(f"One attention layer of 768 channels and 12 heads: {where}")
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    return picture


def _draw_panel(axes: Axes, rows: Sequence[results.Row], panel: Panel) -> None:
    names = {row.name for row in rows}
    sides = sorted({_side(row) for row in rows})
    for name, style in STYLES.items():
        if name in names:
            values = {_side(r): r.value for r in rows if r.name == name}
            y = [panel.adapt(values[side], side**2) for side in sides]
            axes.plot(sides, y, label=name, **{"linewidth": 1.6, **style})
    axes.set_title(panel.title, fontsize=11)
    axes.set_xscale("log")
    axes.set_xticks(sides, [f"{side} x {side}" for side in sides])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Positions of the map")
    if panel.scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _side(row: results.Row) -> int:
    return int(row.quantity.split(" x ")[0])


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
