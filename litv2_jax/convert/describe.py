"""Describes the model whose weights a PyTorch file holds, as far as it shows."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from litv2_jax.convert import identify
from litv2_jax.convert.errors import list_names
from litv2_jax.convert.torch_file import TorchCheckpoint
from litv2_jax.models.family import Family, Shapes, find_family

HEADS_UNKNOWN = (
    "Shapes do not tell the number of heads: add --num-heads and --alpha, and "
    "--window-sizes if they are not 0 0 2 1."
)


def describe_torch(
    source: TorchCheckpoint,
    path: str | PathLike,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the description of the model in a file, and sentences about it.

    Args:
        source: Contents of the file.
        path: The file, for errors.
        model: Name of the model; recognized from the shapes by default.
        num_classes: Classes of a new head, or 0 for no head; by default, those of the
            file.
        sizes: Arguments of `create_model` that the file does not tell.

    Returns:
        The description that checkpoints store: `model`, `are_heads_known`, `input` and
        `class_names`.

    Raises:
        ValueError: If the file is no model of LITv2's, contradicts itself, or its
            sizes cannot be told.
    """
    given = dict(sizes or {})
    in_chans = given.pop("in_chans", None)
    shapes = {name: array.shape for name, array in source.arrays.items()}
    found, theirs = identify.read_architecture(shapes), identify.find_family(shapes)
    if found is None or not (theirs or model):
        raise ValueError(
            f"{path} is no model of LITv2's: its arrays are called "
            f"{list_names(list(shapes), 3)}."
        )
    all_sizes = _read_sizes(source, found, path) | given
    name, notes = _recognize(source, theirs, model, given)
    are_heads_known = bool(name) or "num_heads" in all_sizes
    if theirs and not name:
        # Of the first model, for one of sizes that were not published.
        name = next(iter(theirs.configs))
        if are_heads_known:
            all_sizes = {
                "embed_dim": found.embed_dim,
                "depths": found.depths,
                **all_sizes,
            }
        else:
            all_sizes = identify.sizes_with_shapes(found)
            if all_sizes is None or given:
                raise ValueError(f"{path} is {found}. {HEADS_UNKNOWN}")
    image_size = identify.read_image_size(source.config) or 224
    if name == "litv2_b" and image_size == 384 and not model:
        name = "litv2_b_384"
    if name == "litv2_b_384":
        image_size = 384
    family = find_family(name)
    own = {"num_classes": family.published_classes}
    if family is theirs:
        own = identify.read_own_sizes(shapes, family)
    if num_classes is not None:
        own["num_classes"] = num_classes
    elif not own["num_classes"]:
        notes = [*notes, "The weights have no head for classes."]
    all_sizes |= _read_channels(shapes, family, in_chans)
    is_published = own["num_classes"] == family.published_classes
    description = {
        "model": {"name": name, **own, **all_sizes},
        "are_heads_known": are_heads_known,
        "input": family.describe_input(image_size),
        "class_names": (family.class_names if is_published else "") or [],
    }
    return description, notes


def _read_channels(shapes: Shapes, family: Family, given: int | None) -> dict[str, int]:
    """Returns `in_chans` if it is not that of the published models, or nothing."""
    in_chans = identify.read_in_chans(shapes) if given is None else given
    return {} if in_chans == family.published_channels else {"in_chans": in_chans}


def _read_sizes(
    source: TorchCheckpoint, found: identify.Architecture, path: str | PathLike
) -> dict[str, Any]:
    try:
        return identify.read_sizes(source.config, found)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or altered: {error}. To convert it all the same, save "
            "its state dict alone."
        ) from None


def _recognize(
    source: TorchCheckpoint,
    family: Family | None,
    model: str | None,
    given: Mapping[str, Any],
) -> tuple[str, list[str]]:
    """Returns the name of the model, "" if its sizes were not published, and notes."""
    shapes = {name: array.shape for name, array in source.arrays.items()}
    name = model or identify.recognize_variant(shapes) or ""
    has_windows = family and f"{name}_window4" in family.configs
    if not has_windows or model or "window_sizes" in given:
        return name, []
    # The original's configurations with windows of 4 are called `..._ws_4.py`.
    if "ws_4" in source.experiment:
        note = "The file is of a run of ..._ws_4: windows are 4."
        return f"{name}_window4", [note]
    return name, [
        "Shapes do not tell the windows of HiLo, which are taken to be 2. If they were "
        f"4, convert the file again with --model {name}_window4."
    ]
