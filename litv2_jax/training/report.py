"""End-of-run report: curves and a summary, from metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


def draw_curves(rows: Rows, path: Path) -> None:
    """Draws every scalar over the steps, training and evaluation together."""
    rows = [row for row in rows if row["kind"] != "skipped"]
    skipped = {"step", "kind", "num_images"}
    names = sorted({name for row in rows for name in row} - skipped)
    columns = min(3, len(names))
    figure = Figure(figsize=(4 * columns, 3 * -(-len(names) // columns)))
    figure.set_layout_engine("constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // columns), columns, i + 1)
        for kind, style in (("train", "-"), ("eval", "o-")):
            points = [
                (row["step"], row[name])
                for row in rows
                if row["kind"] == kind and name in row
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=kind)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def summarize(rows: Rows, results: Mapping[str, float], pictures: Sequence[str]) -> str:
    """Returns a short page in Markdown: the last evaluation, and all of them.

    Args:
        rows: Of metrics.jsonl.
        results: The last evaluation.
        pictures: Names of the files, beside the curves.
    """
    evaluations = [row for row in rows if row["kind"] == "eval"]
    num_skipped = sum(row["kind"] == "skipped" for row in rows)
    names = list(results)
    lines = [
        "# Summary",
        "",
        f"{rows[-1]['step']} steps, of which {num_skipped} were skipped because "
        "their loss or gradient was not finite.",
        "",
        *(f"![{x.capitalize()}]({x}.png)\n" for x in ("curves", *pictures)),
        "| step | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in evaluations:
        cells = [f"{row[name]:.6g}" for name in names]
        lines.append(f"| {row['step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
