"""Reads and writes the files of PyTorch and safetensors, without PyTorch.

A `.pth` file is a zip archive (since PyTorch 1.6) of raw storages and a pickle that
describes the tensors as views of them.
"""

import contextlib
import dataclasses
import logging
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from litv2_jax.convert.entries import choose, split
from litv2_jax.convert.errors import TorchFileError, UnsafeFileError
from litv2_jax.convert.pickled_objects import Inert
from litv2_jax.convert.safetensors_file import SafetensorsFiles, is_safetensors
from litv2_jax.convert.state_dicts import check_tensors, find_entries
from litv2_jax.convert.torch_archive import TorchArchive
from litv2_jax.convert.unpickle import check_pickles, unpickle
from litv2_jax.convert.views import STORAGE_TYPES
from litv2_jax.paths import expand_path


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """The useful contents of a PyTorch file.

    Attributes:
        arrays: By PyTorch name, in the types and layouts stored.
        config: The settings saved beside them, if they are a dictionary.
        notes: Sentences about the choice of weights.
        experiment: What mmcv or mmengine call the run, mostly the name of its
            configuration; empty if unknown.
    """

    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    notes: list[str]
    experiment: str = ""


def read_torch_checkpoint(
    path: str | PathLike, entry: str | None = None
) -> dict[str, np.ndarray]:
    """Reads the weights of a `.pth`, `.pt` or `.safetensors` file, executing nothing.

    Finds them as a plain state dict, under `model`, `state_dict` or another name, and
    removes common prefixes of all names, such as `module.`. Of several sets, averages
    (`model_ema`) come last; the sets not taken are logged as a warning.

    Args:
        path: The file; its contents decide the format, not its name. Shards of a
            safetensors file are read by their index, `*.safetensors.index.json`.
        entry: Which weights to take, such as `model_ema`; None for the best guess.

    Returns:
        Arrays by PyTorch name, in the types and layouts stored. Names of the same
        tensor have the same array.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeFileError: If loading the file with PyTorch could run code.
        TorchFileError: If the file is damaged or of another kind, or holds no weights.
    """
    checkpoint = read_checkpoint(path, entry)
    for note in checkpoint.notes:
        logging.warning("%s: %s", path, note)
    return checkpoint.arrays


def read_torch_config(path: str | PathLike) -> dict[str, Any]:
    """Reads the settings that a training checkpoint holds beside its weights.

    Args:
        path: As for `read_torch_checkpoint`.

    Returns:
        The `config` entry as nested dictionaries; empty if there is none.

    Raises:
        FileNotFoundError, TorchFileError: As `read_torch_checkpoint`.
    """
    path = expand_path(Path(path))
    with _explain_errors(path):
        if is_safetensors(path):
            return {}
        with path.open("rb") as file:
            return _config_of(unpickle(TorchArchive(file).read_pickle()))


def read_checkpoint(path: str | PathLike, entry: str | None = None) -> TorchCheckpoint:
    """Reads weights and settings, and returns what `read_torch_checkpoint` would log.

    Args:
        path: As in `read_torch_checkpoint`.
        entry: As in `read_torch_checkpoint`.

    Raises:
        FileNotFoundError, TorchFileError: As `read_torch_checkpoint`.
    """
    path = expand_path(Path(path))
    with _explain_errors(path):
        if is_safetensors(path):
            files = SafetensorsFiles(path)
            names = {name: name for name in files.names}
            taken, notes = choose(split("", names), entry)
            arrays = files.read(taken.values.values())
            arrays = {name: arrays[old] for name, old in taken.values.items()}
            return TorchCheckpoint(arrays, {}, notes)
        with path.open("rb") as file:
            archive = TorchArchive(file)
            contents = unpickle(archive.read_pickle())
            taken, notes = choose(find_entries(contents), entry)
            arrays = archive.read_tensors(check_tensors(taken.values))
            config, experiment = _config_of(contents), _experiment_of(contents)
            return TorchCheckpoint(arrays, config, notes, experiment)


def _experiment_of(contents: Any) -> str:
    meta = contents.get("meta") if isinstance(contents, Inert) else None
    if not isinstance(meta, Inert):
        return ""
    names = (meta.get("exp_name"), meta.get("experiment_name"))
    return next((name for name in names if isinstance(name, str)), "")


def _config_of(contents: Any) -> dict[str, Any]:
    config = contents.get("config") if isinstance(contents, Inert) else None
    return config if isinstance(config, Inert) else {}


def write_torch_checkpoint(
    path: str | PathLike, arrays: Mapping[str, np.ndarray], entry: str = "model"
) -> None:
    """Writes weights that PyTorch loads.

    Args:
        path: Ends in `.safetensors`, or in `.pth` or `.pt` for a file that `torch.load`
            reads as `{entry: state_dict}`.
        arrays: By PyTorch name, in PyTorch's layouts.
        entry: What the original code looks for: `model` in classification, `state_dict`
            in mmsegmentation.

    Raises:
        ValueError: If the suffix is another one, or PyTorch lacks the type of an array.
    """
    path = expand_path(Path(path))
    # Both need C-contiguous bytes; `ascontiguousarray` turns shape () into (1,).
    arrays = {k: np.ascontiguousarray(x).reshape(x.shape) for k, x in arrays.items()}
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    elif path.suffix in (".pth", ".pt"):
        with zipfile.ZipFile(path, "w") as archive:
            root = path.stem
            archive.writestr(f"{root}/data.pkl", _pickle_state_dict(arrays, entry))
            archive.writestr(f"{root}/byteorder", "little")
            for key, array in enumerate(arrays.values()):
                data = array.astype(array.dtype.newbyteorder("<")).tobytes()
                archive.writestr(f"{root}/data/{key}", data)
            archive.writestr(f"{root}/version", "3\n")
    else:
        raise ValueError(f"{path} must end in .pth, .pt or .safetensors.")


@contextlib.contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turns exceptions of the parsers into one sentence about the file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} is refused as unsafe: {error}.") from None
    except TorchFileError as error:
        raise TorchFileError(f"{path} cannot be read: {error}.") from None
    except zipfile.BadZipFile as error:
        raise _explain_no_archive(path, str(error)) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TorchFileError(f"{path} cannot be read: {reason}.") from None
    except MemoryError:
        raise TorchFileError(
            f"{path} cannot be read: there is not enough memory for it."
        ) from None


def _explain_no_archive(path: Path, reason: str) -> TorchFileError:
    """Returns the error that says what a file is instead of a zip archive."""
    with path.open("rb") as file:
        start = file.read(2**20)
    if not start:
        return TorchFileError(f"{path} is empty: copy or download it again.")
    if start.startswith(b"PK"):
        return TorchFileError(
            f"{path} is damaged or truncated ({reason}): copy or download it again."
        )
    try:
        check_pickles(start)
    except UnsafeFileError as error:
        return UnsafeFileError(f"{path} is refused as unsafe: {error}.")
    if start.startswith(b"\x80"):
        return TorchFileError(
            f"{path} was written by PyTorch before 1.6 or is no checkpoint: load it "
            "with PyTorch and save it again with torch.save(checkpoint, path)."
        )
    return TorchFileError(
        f"{path} is neither a PyTorch nor a safetensors file: it begins with "
        f"{start[:24]!r}."
    )


def _pickle_state_dict(arrays: Mapping[str, np.ndarray], entry: str) -> bytes:
    """Returns the pickle of {entry: OrderedDict of tensors}, opcode by opcode.

    `pickle.dumps` would have to import PyTorch to write its names.
    """
    storage_names = {dtype: name for name, dtype in STORAGE_TYPES.items()}

    def plain(value: Any) -> bytes:
        return pickletools.optimize(pickle.dumps(value, 2))[2:-1]

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    ordered_dict = (
        name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    )

    def tensor(key: int, array: np.ndarray) -> bytes:
        if array.dtype not in storage_names:
            raise ValueError(f"PyTorch has no tensors of {array.dtype}.")
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = name("torch", storage_names[array.dtype])
        storage = pickle.MARK + plain("storage") + storage + plain(str(key))
        storage += plain("cpu") + plain(array.size) + pickle.TUPLE + pickle.BINPERSID
        arguments = storage + plain(0) + plain(array.shape) + plain(strides)
        arguments += plain(False) + ordered_dict  # requires_grad and backward hooks.
        rebuild = name("torch._utils", "_rebuild_tensor_v2")
        return rebuild + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE

    items = [plain(k) + tensor(i, x) for i, (k, x) in enumerate(arrays.items())]
    state_dict = ordered_dict + pickle.MARK + b"".join(items) + pickle.SETITEMS
    model = pickle.EMPTY_DICT + plain(entry) + state_dict + pickle.SETITEM
    return pickle.PROTO + b"\x02" + model + pickle.STOP
