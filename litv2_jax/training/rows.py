"""Rows of `metrics.jsonl`, one for each line: read, replaced, appended."""

import json
from pathlib import Path
from typing import Any

from litv2_jax.paths import write_atomically
from litv2_jax.settings import ConfigError

Rows = list[dict[str, Any]]

_FILE = "metrics.jsonl"


def read_rows(workdir: Path) -> Rows:
    """Returns the rows; a killed run may have left half a line, which is dropped.

    Raises:
        ConfigError: If any other line is damaged.
    """
    path = workdir / _FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "kind": str(row["kind"])})
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            if not any(rest.strip() for rest in lines[number:]):
                break
            raise ConfigError(
                f"Line {number} of {path} is damaged ({type(error).__name__}: {error}):"
                " repair it, or move the file away to begin another."
            ) from None
    return rows


def replace_rows(workdir: Path, rows: Rows) -> None:
    """Replaces all rows by these."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(workdir / _FILE, text)


def append_row(workdir: Path, row: dict[str, Any]) -> None:
    """Adds a row."""
    with (workdir / _FILE).open("a") as file:
        file.write(json.dumps(row) + "\n")


def find_skipped(rows: Rows) -> tuple[int, int]:
    """Returns how many steps in a row were skipped when the log ends, and since when.

    Returns:
        The number of steps, and the last step that was applied before them.
    """
    if not rows or rows[-1]["kind"] != "skipped":
        return 0, 0
    last = rows[-1]
    return int(last.get("in_a_row", 1)), int(last.get("since", last["step"] - 1))
