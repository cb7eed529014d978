"""Converts a published PyTorch file to a checkpoint, completely or not at all.

litv2-convert litv2_s.pth weights/litv2_s
litv2-convert litv2_s.pth weights/fpn --model semantic_fpn_litv2_s
litv2-convert published:litv2_s weights/litv2_s
litv2-convert weights/litv2_s litv2_s.safetensors --to-torch

In a checkout, `python convert_torch_weights.py` is the same. PyTorch is not needed, and
nothing in the file is executed.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from litv2_jax import models, pretrained
from litv2_jax.checkpoints import save_weights
from litv2_jax.class_names import ClassNames, read_class_names
from litv2_jax.convert import identify
from litv2_jax.convert.apply import (
    load_torch_weights,
    match_weights,
    to_torch_state_dict,
)
from litv2_jax.convert.describe import HEADS_UNKNOWN, describe_torch
from litv2_jax.convert.model_arrays import Entry, torch_entries
from litv2_jax.convert.torch_file import read_checkpoint, write_torch_checkpoint
from litv2_jax.models.family import find_family, list_all_models
from litv2_jax.models.state import split_state
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError
from litv2_jax.text import program_name
from litv2_jax.weights import parse_weights
from litv2_jax.weights.cache import fetch
from litv2_jax.weights.published import find_published, is_published

# Options that are sizes of the backbone.
_SIZES = ("embed_dim", "depths", "num_heads", "window_sizes", "alpha", "in_chans")


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts as the command line says; prints an error and exits with status 1."""
    options = _parse(arguments)
    try:
        if options.to_torch:
            _to_torch(options)
        else:
            _from_torch(options)
    except (ValueError, OSError) as error:
        sys.exit(f"{program_name()}: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help=".pth, .pt or .safetensors file, or published:NAME")
    add("output", type=expand_path, help="folder to create")
    add("--entry", help="which weights of the file to take, such as model_ema")
    add(
        "--model",
        choices=list_all_models(),
        help="recognized from the file if left out",
    )
    add(
        "--num-classes",
        type=int,
        help="start with a new head for so many classes; 0 leaves out the head",
    )
    add(
        "--in-chans",
        type=int,
        metavar="N",
        help="adapt the first layer to images of so many channels",
    )
    add(
        "--class-names",
        type=expand_path,
        metavar="FILE",
        help="text file with the name of a class in each line, where the file was not "
        "trained on the published data set",
    )
    sizes = parser.add_argument_group("sizes that are not those of the variant")
    sizes.add_argument("--embed-dim", type=int)
    for name in ("--depths", "--num-heads", "--window-sizes"):
        sizes.add_argument(name, type=int, nargs=4, metavar="N")
    sizes.add_argument("--alpha", type=float, help="share of the heads that are Lo-Fi")
    add(
        "--to-torch",
        action="store_true",
        help="convert to PyTorch: source is a checkpoint or the workdir of a run, "
        "output a .pth, .pt or .safetensors file",
    )
    return parser.parse_args(arguments)


def _from_torch(options: argparse.Namespace) -> None:
    if options.output.exists() and any(options.output.iterdir()):
        raise ConfigError(f"{options.output} is not empty: name a folder to create.")
    path, name = _find_source(options)
    source = read_checkpoint(path, options.entry)
    description, name_notes = describe_torch(
        source,
        path,
        model=name,
        num_classes=options.num_classes,
        sizes={n: x for n in _SIZES if (x := getattr(options, n)) is not None},
    )
    description["class_names"], class_notes = _name_classes(options, description)
    try:
        model, arrays, notes = _create_model(description["model"], source.arrays)
        report = load_torch_weights(model, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    notes = source.notes + name_notes + class_notes + notes
    if report.missing:
        notes.append(
            f"Only the backbone is the file's. New, and to be trained: "
            f"{', '.join(report.missing)}."
        )
    save_weights(options.output, *split_state(model), description)
    _print_table(report.loaded)
    for note in notes:
        print(note)
    print(f"Wrote {options.output}: {_summarize(description, report.loaded)}.")
    if not description["are_heads_known"]:
        print(f"{HEADS_UNKNOWN} Without them, `predict` refuses the checkpoint.")


def _find_source(options: argparse.Namespace) -> tuple[Path, str | None]:
    """Returns the file to convert, and the name of its model if that is known."""
    if not is_published(options.source):
        return expand_path(options.source), options.model
    file = find_published(options.source, options.model)
    return fetch(file), options.model or file.model


def _create_model(
    sizes: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[nnx.Module, dict[str, np.ndarray], list[str]]:
    """Returns a model to fill, the arrays to fill it with, and notes to print.

    The model is abstract if it has the shapes of the file. Otherwise its arrays are
    created only after those of the file are found to fit: the sizes that a file states
    can be wrong.
    """
    family = find_family(sizes["name"])
    shapes = {name: array.shape for name, array in arrays.items()}
    num_classes = identify.num_classes_of(shapes)
    model = nnx.eval_shape(lambda: models.create_model(rngs=nnx.Rngs(0), **sizes))
    if family is not identify.find_family(shapes):
        # Only the backbone is taken: the rest of the model must be initialized.
        match_weights(model, arrays)
        return models.create_model(rngs=nnx.Rngs(0), **sizes), arrays, []
    if sizes["num_classes"] in (0, num_classes):
        return model, arrays, []
    # The head that is left out must fit as well: the file may be damaged.
    own = {**sizes, "num_classes": num_classes}
    match_weights(
        nnx.eval_shape(lambda: models.create_model(rngs=nnx.Rngs(0), **own)), arrays
    )
    prefixes = tuple(f"{head}." for head in family.torch_heads)
    arrays = {n: x for n, x in arrays.items() if not n.startswith(prefixes)}
    model = models.create_model(rngs=nnx.Rngs(0), **sizes)
    new = to_torch_state_dict(model)
    head = {n: x for n, x in new.items() if n.startswith(prefixes)}
    note = (
        f"The head is new: for {sizes['num_classes']} classes instead of the file's "
        f"{num_classes}. It has to be trained."
    )
    return model, arrays | head, [note]


def _name_classes(
    options: argparse.Namespace, description: Mapping[str, Any]
) -> tuple[ClassNames, list[str]]:
    """Returns the class names to store, and notes about them."""
    found, num_classes = description["class_names"], description["model"]["num_classes"]
    if options.class_names:
        names = read_class_names(options.class_names)
        if len(names) != num_classes:
            raise ConfigError(
                f"{options.class_names} names {len(names)} classes, but the model has "
                f"{num_classes}."
            )
        return names, []
    if not found:
        return found, []
    note = (
        f"The {num_classes} classes are named as those of {found}, which has as many; "
        "if they are others, name them with --class-names FILE."
    )
    return found, [note]


def _to_torch(options: argparse.Namespace) -> None:
    if options.output.exists():
        raise ConfigError(f"{options.output} exists already: name a file to create.")
    weights = parse_weights(options.source, "source")
    description = pretrained.describe(weights)
    model = pretrained.create_model(
        **description["model"], rngs=nnx.Rngs(0), weights=weights
    )
    family = find_family(description["model"]["name"])
    arrays = to_torch_state_dict(model)
    write_torch_checkpoint(options.output, arrays, family.torch_entry)
    entries = list(torch_entries(model))
    _print_table(entries)
    print(f"Wrote {options.output}: {_summarize(description, entries)}.")


def _print_table(entries: list[Entry]) -> None:
    rows = [("PyTorch", "shape", "here", "shape")]
    for entry in entries:
        shapes = [
            "x".join(map(str, shape)) or "scalar"
            for shape in (entry.torch_shape, entry.variable.shape)
        ]
        rows.append((entry.torch_name, shapes[0], entry.path, shapes[1]))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print(
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
        )


def _summarize(description: dict[str, Any], entries: list[Entry]) -> str:
    params = [e for e in entries if isinstance(e.variable, nnx.Param)]
    count = sum(math.prod(entry.torch_shape) for entry in params)
    sizes = {k: v for k, v in description["model"].items() if k != "name"}
    if not description.get("are_heads_known", True):
        sizes |= dict.fromkeys(("num_heads", "window_sizes", "alpha"), "unknown")
    settings = ", ".join(f"{key} {value}" for key, value in sizes.items())
    name = description["model"]["name"]
    return f"{name} ({settings}), {len(entries)} arrays, {count:,} parameters"


if __name__ == "__main__":
    main()
