"""Rows of measurements: where they were taken, as a JSON file, as a printed table."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """One number: a part of the benchmark, what was measured, in which unit."""

    part: str
    name: str
    quantity: str
    value: float


def describe_run(packages: Sequence[str]) -> dict[str, Any]:
    """Returns commit, machine and versions; names no host and no path."""
    versions = {"python": platform.python_version()}
    for package in packages:
        versions[package] = importlib.metadata.version(package)
    return {
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": count_cores(),
        # Above the number of cores, others were at work: wall times are too long.
        "load": round(os.getloadavg()[0], 1),
        # How memory is allocated, where that was chosen.
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": " ".join(f"{name}={text}" for name, text in versions.items()),
    }


def count_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_json(rows: Sequence[Row], run: dict[str, Any], path: Path) -> None:
    """Writes what is known of the run, then one line per row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps([*row[:3], float(f"{row.value:.6g}")]) for row in rows]
    head = json.dumps(run, indent=1).removesuffix("\n}")
    columns = json.dumps(Row._fields)
    body = ",\n  ".join(lines)
    path.write_text(f'{head},\n "columns": {columns},\n "rows": [\n  {body}\n ]\n}}\n')


def read_json(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Returns the rows and what is known of the run."""
    run = json.loads(path.read_text())
    rows = [Row(*row) for row in run.pop("rows")]
    run.pop("columns")
    return rows, run


def print_report(rows: Sequence[Row], run: dict[str, Any]) -> None:
    """Prints the tables, then what is known of the run."""
    print(format_tables(rows))
    print(*(f"{name}: {value}" for name, value in run.items()), sep="\n")


def format_tables(rows: Sequence[Row]) -> str:
    """Returns one table per part: a line for each name, a column for each quantity."""
    return "\n\n".join(
        _format_table(part, [row for row in rows if row.part == part])
        for part in dict.fromkeys(row.part for row in rows)
    )


def tabulate(title: str, rows: Sequence[Row]) -> list[list[str]]:
    """Returns the cells of a table: a line for each name, a column for each quantity.

    Args:
        title: Of the first column.
        rows: Of one part.
    """
    quantities = list(dict.fromkeys(row.quantity for row in rows))
    values = {(row.name, row.quantity): f"{row.value:.4g}" for row in rows}
    lines = [[title, *quantities]]
    for name in dict.fromkeys(row.name for row in rows):
        lines.append([name, *(values.get((name, q), "") for q in quantities)])
    return lines


def _format_table(part: str, rows: Sequence[Row]) -> str:
    lines = tabulate(part, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_format_line(line, widths) for line in lines)


def _format_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *values = zip(cells, widths, strict=True)
    padded = [name[0].ljust(name[1]), *(text.rjust(width) for text, width in values)]
    return "  ".join(padded).rstrip()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
