"""What a run shows and writes: progress bar, metrics.jsonl, TensorBoard, curves."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import tensorboardX
from matplotlib.figure import Figure
from tqdm import tqdm


class Log:
    """Shows and writes the numbers of a run, on the first process alone."""

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        num_steps: int,
        batch_size: int,
        every: int,
    ):
        """Opens the log and forgets what was written after the step to resume from.

        Args:
            workdir: Gets `metrics.jsonl`, `tensorboard/` and `report/`.
            start_step: Updates made so far.
            num_steps: Updates in all.
            batch_size: Images per update.
            every: Updates per row of training numbers, which are means over them.
        """
        self._is_first = jax.process_index() == 0
        if not self._is_first:
            return
        self._workdir = workdir
        self._batch_size = batch_size
        self._every = every
        self._unwritten: list[Mapping[str, float]] = []
        rows = [row for row in _read_rows(workdir) if row["step"] <= start_step]
        _replace_rows(workdir, rows)
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1
        )
        # Counted in images, so that the rate is images per second; quiet if there is no
        # terminal.
        self._bar = tqdm(
            total=num_steps * batch_size,
            initial=start_step * batch_size,
            desc="train",
            unit=" images",
            unit_scale=True,
            disable=None,
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_first:
            self._bar.close()
            self._board.close()

    def write_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Moves the bar on by an update, and writes a row if it is time to."""
        if not self._is_first:
            return
        self._bar.set_postfix_str(_format(scalars), refresh=False)
        self._bar.update(self._batch_size)
        self._unwritten.append(scalars)
        if step % self._every == 0:
            self._write_means(step)

    def write_evaluation(
        self, step: int, epoch: float, results: Mapping[str, float]
    ) -> None:
        """Writes a row and prints a line."""
        if not self._is_first:
            return
        # A run that is resumed from here begins its means anew, and so do all.
        self._write_means(step)
        self._write(step, "eval", results)
        tqdm.write(f"epoch {epoch:.4g}, step {step}: {_format(results)}")

    def draw(self, draw_examples: Callable[[Path], None]) -> None:
        """Draws `report/curves.png`, and `report/predictions.png` by the function."""
        if not self._is_first:
            return
        report = self._workdir / "report"
        report.mkdir(exist_ok=True)
        _draw_curves(_read_rows(self._workdir), report / "curves.png")
        draw_examples(report / "predictions.png")
        tqdm.write(f"Drew {report}/curves.png and {report}/predictions.png.")

    def _write_means(self, step: int) -> None:
        if self._unwritten:
            names = self._unwritten[0]
            count = len(self._unwritten)
            means = {n: sum(row[n] for row in self._unwritten) / count for n in names}
            self._unwritten = []
            self._write(step, "train", means)

    def _write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        with _rows_file(self._workdir).open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


def announce(text: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        tqdm.write(text)


def _format(scalars: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())


def _rows_file(workdir: Path) -> Path:
    return workdir / "metrics.jsonl"


def _read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Returns what was written; a run that was killed may have left half a line."""
    rows = []
    if _rows_file(workdir).exists():
        for line in _rows_file(workdir).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _replace_rows(workdir: Path, rows: list[dict[str, Any]]) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = _rows_file(workdir).with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, _rows_file(workdir))


def _draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws every scalar over the steps, training and evaluation together."""
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
