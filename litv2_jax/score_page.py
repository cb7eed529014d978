"""A page of scores that were measured beside the published ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litv2_jax.paths import write_atomically
from litv2_jax.settings import ConfigError
from litv2_jax.text import literal
from litv2_jax.weights.published import PUBLISHED, TITLES

Row = dict[str, Any]

_HEAD = """\
# {title}

| model | score | published, % | measured, % | difference | images | conditions |
|---|---|---|---|---|---|---|
"""


class ScorePage:
    """What was measured of each published file, kept on disk after each one.

    Attributes:
        path: The Markdown file; the rows are in a `.json` beside it.
    """

    def __init__(self, path: Path, title: str, num_images: int):
        """Reads the rows of earlier starts.

        Args:
            path: Markdown file to write.
            title: Its first line.
            num_images: Images of the published evaluation.

        Raises:
            ConfigError: If the rows are damaged, or there is no folder for the page.
        """
        if not path.parent.is_dir():
            raise ConfigError(
                f"--output is {path}, but there is no folder {path.parent}; make it."
            )
        self.path = path
        self._json = path.with_suffix(".json")
        self._title, self._num_images = title, num_images
        self._rows = self._read()

    def find(self, name: str) -> Row | None:
        """Returns the row of a published file, named as in `PUBLISHED`, if any."""
        return self._rows.get(name)

    def add(self, name: str, row: Row) -> None:
        """Adds the row of a published file, and writes both files.

        Args:
            name: As for `find`.
            row: `scores` as shares of 1 by their names in `TITLES`, `num_images`,
                `sha256` of the file, and `conditions`, what else the scores may depend
                on.
        """
        self._rows[name] = row
        write_atomically(self._json, json.dumps(self._rows, indent=2) + "\n")
        write_atomically(self.path, self.text())

    def text(self) -> str:
        """Returns the page in Markdown, in the order of `PUBLISHED`."""
        conditions: list[str] = []
        lines = []
        for name, file in PUBLISHED.items():
            if row := self._rows.get(name):
                text = ", ".join(f"{k} {x}" for k, x in row["conditions"].items())
                if text not in conditions:
                    conditions.append(text)
                number = conditions.index(text) + 1
                lines += self._format(file.model, file.scores, row, number)
        notes = [f"{i}. {literal(text)}" for i, text in enumerate(conditions, 1)]
        head = _HEAD.format(title=self._title)
        return head + "\n".join([*lines, "", "Conditions:", "", *notes]) + "\n"

    def _format(
        self, model: str, published: Mapping[str, float], row: Row, number: int
    ) -> list[str]:
        count = f"{row['num_images']:,}"
        if row["num_images"] != self._num_images:
            count += f" of {self._num_images:,}"
        lines = []
        for score, share in row["scores"].items():
            measured = 100 * share
            expected = published.get(score)
            difference = "" if expected is None else f"{measured - expected:+.2f}"
            expected = "in a figure" if expected is None else f"{expected:.1f}"
            cells = (TITLES[score], expected, f"{measured:.2f}", difference, count)
            lines.append(f"| `{model}` | {' | '.join(cells)} | {number} |")
        return lines

    def _read(self) -> dict[str, Row]:
        if not self._json.is_file():
            return {}
        needed = {"scores", "num_images", "sha256", "conditions"}
        try:
            rows = json.loads(self._json.read_bytes())
            if not all(needed <= row.keys() for row in rows.values()):
                raise ValueError("it is of another program")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{self._json} is damaged ({error}): delete it to measure again, or "
                "name another --output."
            ) from None
        return rows
