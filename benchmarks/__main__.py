"""Measures one thing, prints a table and writes the JSON file.

python -m benchmarks data
python -m benchmarks data --images 1024 --workers 0 4 8 --output results/here.json
"""

import argparse
import sys

from benchmarks import attention, h200, layers, profile, throughput
from benchmarks import input as data

# Name to module: its docstring helps, `add_arguments` declares, `run` measures.
BENCHMARKS = {
    "model": throughput,
    "attention": attention,
    "layers": layers,
    "data": data,
    "h200": h200,
    "profile": profile,
}


def main(arguments: list[str]) -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, benchmark in BENCHMARKS.items():
        summary = (benchmark.__doc__ or "").splitlines()[0]
        benchmark.add_arguments(names.add_parser(name, help=summary))
    options = parser.parse_args(arguments)
    BENCHMARKS[options.name].run(options)


# Worker processes import this file anew.
if __name__ == "__main__":
    main(sys.argv[1:])
