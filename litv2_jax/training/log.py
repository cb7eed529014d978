"""Output of a run: progress bar, metrics.jsonl, trackers, report/."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from litv2_jax.pictures import draw_or_warn
from litv2_jax.training.performance import Performance
from litv2_jax.training.report import draw_curves, summarize
from litv2_jax.training.rows import append_row, read_rows, replace_rows
from litv2_jax.training.trackers import open_trackers


class Log:
    """Shows and writes the numbers of a run, on the first process alone.

    Attributes:
        performance: The speed, written with each row of training numbers.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        num_steps: int,
        batch_size: int,
        every: int,
        trackers: Sequence[str] = (),
        recipe: Mapping[str, Any] = MappingProxyType({}),
    ):
        """Opens the log and removes the rows after the step to resume from.

        Args:
            workdir: Gets `metrics.jsonl`, `report/` and what trackers write.
            start_step: Steps made so far.
            num_steps: Steps of the run.
            batch_size: Images per step.
            every: Steps for each row of training numbers, which are means over them.
            trackers: Names of what else gets the numbers and drawings.
            recipe: Settings for them to show.
        """
        self.performance = Performance(batch_size)
        self._is_first = jax.process_index() == 0
        if not self._is_first:
            return
        self._workdir = workdir
        self._report = workdir / "report"
        self._batch_size = batch_size
        self._every = every
        self._unwritten: list[Mapping[str, float]] = []
        rows = [row for row in read_rows(workdir) if row["step"] <= start_step]
        replace_rows(workdir, rows)
        self._trackers = open_trackers(trackers, workdir, start_step, recipe)
        # Counted in images, so that the rate is in images per second; quiet without a
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

    def __exit__(self, _: object, error: object, __: object) -> None:
        if self._is_first:
            self._bar.close()
            for tracker in self._trackers:
                tracker.close(failed=error is not None)

    def write_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Advances the progress bar by a step, and writes a row if one is due."""
        if not self._is_first:
            return
        self._bar.set_postfix_str(_format(scalars), refresh=False)
        self._bar.update(self._batch_size)
        self._unwritten.append(scalars)
        if step % self._every == 0:
            self.write_means(step)

    def write_skipped(
        self, step: int, scalars: Mapping[str, float], in_a_row: int, since: int
    ) -> None:
        """Writes a row about a step that was not applied, and warns.

        Args:
            step: Its number.
            scalars: Its numbers.
            in_a_row: Steps skipped in a row up to it, those of earlier starts included.
            since: Last step that was applied before them.
        """
        if not self._is_first:
            return
        self._bar.update(self._batch_size)
        # JSON has no NaN.
        row = {name: str(value) for name, value in scalars.items()}
        counts = {"in_a_row": in_a_row, "since": since}
        append_row(self._workdir, {"step": step, "kind": "skipped", **counts, **row})
        self._track(step, "train", {"skipped": 1})
        tqdm.write(
            f"step {step} skipped: its loss, its gradient or the new weights are not "
            f"finite: {_format(scalars)}"
        )

    def write_evaluation(
        self, step: int, epoch: float, results: Mapping[str, float]
    ) -> None:
        """Writes a row and prints a line."""
        if not self._is_first:
            return
        self._write(step, "eval", results)
        tqdm.write(f"epoch {epoch:.4g}, step {step}: {_format(results)}")

    def draw(self, name: str, draw_to: Callable[[Path], None]) -> None:
        """Draws `report/NAME.png` by the function, and shows it in the trackers."""
        if not self._is_first:
            return
        path = self._report / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        if not draw_or_warn(lambda: draw_to(path), path):
            return
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self._trackers:
            tracker.log_image(name, pixels)

    def report(
        self,
        pictures: Mapping[str, Callable[[Path], None]],
        results: Mapping[str, float],
        table: str,
        write_scores: Callable[[Path], Any],
    ) -> None:
        """Writes `report/`: curves, pictures drawn by functions, a summary.

        Args:
            pictures: Functions that draw to a file, by the names of the files.
            results: The last evaluation.
            table: The metric's table, in Markdown.
            write_scores: Writes further files of its scores into a folder.
        """
        if not self._is_first:
            return
        rows = read_rows(self._workdir)
        self.draw("curves", lambda path: draw_curves(rows, path))
        for name, draw_to in pictures.items():
            self.draw(name, draw_to)
        write_scores(self._report)
        # The names of classes may be in any script.
        (self._report / "summary.md").write_text(
            summarize(rows, results, list(pictures))
            + (f"\n{table}\n" if table else ""),
            encoding="utf-8",
        )
        files = ", ".join(f"{name}.png" for name in ("curves", *pictures))
        tqdm.write(f"Wrote {self._report}: {files}, summary.md.")

    def write_means(self, step: int) -> None:
        """Writes a row of the means since the last row, if any.

        Due at every checkpoint: a run that resumes from it restarts its averages.
        """
        if self._is_first and self._unwritten:
            names = self._unwritten[0]
            count = len(self._unwritten)
            means = {n: sum(row[n] for row in self._unwritten) / count for n in names}
            self._unwritten = []
            self._write(step, "train", means)
            self._write_performance(step)

    def _write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        append_row(self._workdir, {"step": step, "kind": kind, **scalars})
        self._track(step, kind, scalars)

    def _track(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        named = {f"{kind}/{name}": value for name, value in scalars.items()}
        for tracker in self._trackers:
            tracker.log_scalars(step, named)

    def _write_performance(self, step: int) -> None:
        """Writes to another file, so that a repeated run has the same metrics.jsonl."""
        numbers = self.performance.result()
        if not numbers:
            return
        self.performance.restart()
        with (self._workdir / "performance.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._track(step, "performance", numbers)


def announce(text: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        tqdm.write(text)


def _format(scalars: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
