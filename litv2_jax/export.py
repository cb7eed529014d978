"""Exports a model: python -m litv2_jax.export --weights RUN OUT.

The folder OUT then runs without this package; see docs/deployment.md.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from flax import nnx

from litv2_jax.class_names import display_names
from litv2_jax.models.fuse import fuse_for_inference
from litv2_jax.pretrained import load_described
from litv2_jax.program import InputSpec
from litv2_jax.settings import DTYPES, ConfigError
from litv2_jax.stablehlo import PLATFORMS, write_stablehlo

FORMATS = ("stablehlo", "onnx")
_DYNAMIC = "dynamic"


def export(
    model: nnx.Module,
    folder: str | PathLike,
    *,
    image_size: int | tuple[int, int] | None = 224,
    batch_size: int | None = None,
    input_type: str = "float32",
    normalize: bool = False,
    format: str = "stablehlo",
    **options: Any,
) -> Path:
    """Writes a model as StableHLO or ONNX.

    Args:
        model: From `create_model` or `fuse_for_inference`.
        folder: To create.
        image_size: Height and width in pixels, or both in one number; None for any
            multiples of 32, in StableHLO.
        batch_size: Images of a batch; None for any number.
        input_type: `float32` or `uint8`.
        normalize: Whether the program normalizes pixels of 0 to 255; else it gets what
            `litv2_jax.augment.normalize.normalize` returns.
        format: `stablehlo` or `onnx`.
        **options: Those of `litv2_jax.stablehlo.write_stablehlo` (`weights_inside`,
            `platforms`, `description`) or of `litv2_jax.to_onnx.write.write_onnx`
            (`description`), which say what the folder holds.

    Raises:
        ConfigError: If an argument is impossible, see there; or flatbuffers or onnx is
            not installed.
    """
    write = _choose_writer(format)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    spec = InputSpec(image_size, batch_size, input_type, not normalize)
    return write(model, folder, spec, **options)


def _choose_writer(format: str) -> Callable[..., Path]:
    if format not in FORMATS:
        raise ConfigError(
            f"There is no format {format!r}; there are {' and '.join(FORMATS)}."
        )
    if format == "stablehlo":
        return write_stablehlo
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError("ONNX needs onnx: pip install 'litv2_jax[onnx]'.")
    from litv2_jax.to_onnx.write import write_onnx

    return write_onnx


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports as the command line says; exits with status 1 and why if it cannot."""
    options = _parse(arguments)
    try:
        folder = _run(options)
    except (ValueError, OSError, NotImplementedError) as error:
        sys.exit(f"litv2_jax.export: {error}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"Wrote {folder}, {size / 1e6:.2f} MB.")


def _run(options: argparse.Namespace) -> Path:
    write_options = _find_format_options(options)
    model, description = load_described(options.weights, dtype=options.dtype)
    image_size = options.image_size or [description["input"].get("image_size", 512)]
    return export(
        fuse_for_inference(model) if options.fuse else model,
        options.output,
        image_size=_read_size(image_size),
        batch_size=None if options.batch_size == _DYNAMIC else options.batch_size,
        input_type=options.input_type,
        normalize=options.normalize,
        format=options.format,
        **write_options,
        description={
            "model": description["model"],
            "preprocessing": description["input"],
            "class_names": display_names(description.get("class_names") or []),
        },
    )


def _find_format_options(options: argparse.Namespace) -> dict[str, Any]:
    """Returns those that one format alone has."""
    if options.format == "stablehlo":
        platforms = options.platforms or PLATFORMS
        return {"weights_inside": options.weights_inside, "platforms": platforms}
    if options.weights_inside or options.platforms:
        raise ConfigError(
            "--weights-inside and --platforms are options of StableHLO: an ONNX file "
            "holds its weights and runs wherever a runtime does. Leave them out."
        )
    return {}


def _read_size(sides: Sequence[int | str]) -> tuple[int, int] | None:
    """Returns height and width of `--image-size`, None for dynamic ones."""
    if _DYNAMIC in sides:
        return None
    height, *rest = map(int, sides)
    if len(rest) > 1:
        raise ConfigError(
            f"--image-size is {' '.join(map(str, sides))} but must be one or two "
            "numbers, height and width, or 'dynamic'."
        )
    return (height, rest[0] if rest else height)


def _number_or_dynamic(text: str) -> int | str:
    return text if text == _DYNAMIC else int(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="litv2_jax.export", description=__doc__)
    add = parser.add_argument
    add("output", type=Path, help="folder to create")
    add("--weights", required=True, help="as for litv2_jax.predict")
    add("--format", choices=FORMATS, default=FORMATS[0])
    add(
        "--image-size",
        type=_number_or_dynamic,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or 'dynamic' for multiples of 32; by default the size "
        "that the model is evaluated with",
    )
    add(
        "--batch-size",
        type=_number_or_dynamic,
        default=_DYNAMIC,
        metavar="N",
        help="images of a batch, any number by default",
    )
    add("--input-type", choices=["float32", "uint8"], default="float32")
    add("--normalize", action="store_true", help="take pixels of 0 to 255")
    add("--dtype", choices=DTYPES, default=DTYPES[0])
    add("--fuse", action="store_true", help="fold norms, for faster inference")
    add("--weights-inside", action="store_true", help="write one file")
    add("--platforms", nargs="+", metavar="NAME", help=f"by default {PLATFORMS}")
    return parser.parse_args(arguments)


class _Module(ModuleType):
    """Lets `litv2_jax.export` be the function, once this module is imported, too."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        return export(*arguments, **options)


sys.modules[__name__].__class__ = _Module

if __name__ == "__main__":
    main()
