"""Measures one thing, prints a table and writes the JSON file.

python -m benchmarks data
python -m benchmarks data --images 1024 --workers 0 4 8 --output results/here.json
"""

import argparse
import importlib
import sys

# Each is a folder, whose `command.py` has three things: a docstring that helps,
# `add_arguments` and `run`.
SUMMARIES = {
    "model": "images per second of whole models, and against PyTorch",
    "backbones": "LITv2-S beside other backbones, which timm runs in PyTorch",
    "attention": "HiLo beside the attention layers of other models",
    "layers": "the parts of LITv2 by each of their implementations",
    "data": "how fast images are decoded, cropped and loaded",
    "card": "everything worth knowing of a machine with GPUs, in one go",
    "h200": "what XLA compiles for an H200, without one",
    "profile": "where the time of a model goes",
}


def main(arguments: list[str]) -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    parsers = {
        name: names.add_parser(name, help=summary)
        for name, summary in SUMMARIES.items()
    }
    # Only the one that is asked for is imported: each needs other packages.
    chosen = arguments[0] if arguments else ""
    if chosen not in parsers:
        parser.parse_args(arguments)
    command = importlib.import_module(f"benchmarks.{chosen}.command")
    parsers[chosen].description = command.__doc__
    command.add_arguments(parsers[chosen])
    command.run(parser.parse_args(arguments))


# Worker processes of the loader import this file again.
if __name__ == "__main__":
    main(sys.argv[1:])
