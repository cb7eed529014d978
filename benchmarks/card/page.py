"""The page of Markdown about a machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Row, tabulate


def write(rows: Sequence[Row], description: dict[str, Any], path: Path) -> None:
    """Writes a table for each part, after what is known of the run."""
    title = f"# {description['device']}"
    facts = [f"- {name}: {value}" for name, value in description.items()]
    tables = [
        format_table(part, [row for row in rows if row.part == part])
        for part in dict.fromkeys(row.part for row in rows)
    ]
    path.write_text("\n\n".join([title, "\n".join(facts), *tables]) + "\n")


def format_table(part: str, rows: Sequence[Row]) -> str:
    """Returns a line for each name, a column for each quantity."""
    head, *lines = tabulate("", rows)
    rule = ["---"] * len(head)
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
    return f"## {part[:1].upper()}{part[1:]}\n\n{body}"
