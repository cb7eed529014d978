"""Measures one thing, prints a table and writes the JSON file.

python -m benchmarks data
python -m benchmarks data --images 1024 --workers 0 4 8 --output results/here.json
"""

import argparse
import importlib
import sys

# Each is a folder, whose `command.py` has three things: a docstring that helps,
# `add_arguments` and `run`.
NAMES = ("model", "attention", "layers", "data", "h200", "profile")


def main(arguments: list[str]) -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    commands = {
        name: importlib.import_module(f"benchmarks.{name}.command") for name in NAMES
    }
    for name, benchmark in commands.items():
        summary = (benchmark.__doc__ or "").splitlines()[0]
        benchmark.add_arguments(names.add_parser(name, help=summary))
    options = parser.parse_args(arguments)
    commands[options.name].run(options)


# Worker processes of the loader import this file again.
if __name__ == "__main__":
    main(sys.argv[1:])
