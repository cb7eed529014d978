"""Draws what `python -m benchmarks model` measured: speed, ours beside PyTorch's.

python -m benchmarks.model_plot benchmarks/results/model.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.results import Row

# Ours, maybe without options, then PyTorch's, in Okabe and Ito's colours.
COLORS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7")

# Of the longest way to run a model, in inches.
NAME_WIDTH = 2.6


def draw(path: Path) -> Path:
    """Draws a file of results as a PNG beside it, and returns where."""
    rows, run = results.read_json(path)
    # A published part has no times of single calls.
    parts = list(dict.fromkeys(row.part for row in rows if row.quantity == "ms"))
    width = 4.2 * len(parts)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    all_axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(all_axes, parts, strict=True):
        _draw_part(axes, [row for row in rows if row.part == part])
        axes.set_title(part)
    handles, labels = all_axes[0].get_legend_handles_labels()
    ncols = int(width / NAME_WIDTH)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
    all_axes[0].set_ylabel("images per second")
    figure.suptitle(f"{run['device']}: {run['cpu']}, {run['cores']} cores")
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    return picture


def _draw_part(axes: Axes, rows: Sequence[Row]) -> None:
    """Draws one group of bars for each model, one bar for each way to run it."""
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


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
