"""Reads and writes the files of PyTorch and safetensors, without PyTorch.

A `.pth` file is a zip archive (since PyTorch 1.6) of raw storages and a pickle that
says which tensor lies where in them.
"""

import contextlib
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from litv2_jax.convert.unpickle import (
    STORAGE_TYPES,
    Tensor,
    TorchFileError,
    UnsafeFileError,
    unpickle,
)


def read_torch_checkpoint(path: str | PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a `.pth`, `.pt` or `.safetensors` file, running nothing.

    Finds them as a plain state dict, under `model` or under `state_dict`, and takes off
    the prefix `module.` that data-parallel training leaves on the names.

    Args:
        path: The file; its contents decide the format, not its name.

    Returns:
        Arrays by PyTorch name, in the types and layouts stored.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeFileError: If loading the file with PyTorch could run code.
        TorchFileError: If the file is damaged or of another kind, or holds no weights.
    """
    path = Path(path)
    with _explain_errors(path):
        if _is_safetensors(path):
            arrays = safetensors.numpy.load_file(path)
        else:
            with zipfile.ZipFile(path) as archive:
                tensors = _find_state_dict(_load(archive))
                arrays = {name: _read(archive, x) for name, x in tensors.items()}
    if arrays and all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): x for name, x in arrays.items()}
    return arrays


def read_torch_config(path: str | PathLike) -> dict[str, Any]:
    """Reads the settings that a training checkpoint holds beside its weights.

    Args:
        path: As for `read_torch_checkpoint`.

    Returns:
        The `config` entry as nested dictionaries; empty where there is none.

    Raises:
        FileNotFoundError, TorchFileError: As `read_torch_checkpoint`.
    """
    path = Path(path)
    with _explain_errors(path):
        if _is_safetensors(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            contents = _load(archive)
    config = contents.get("config") if isinstance(contents, Mapping) else None
    return dict(config) if isinstance(config, Mapping) else {}


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
        ValueError: If the ending is another, or PyTorch has no such type of number.
    """
    path = Path(path)
    # Both formats take the bytes as they lie; `ascontiguousarray` makes [] to [1].
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
    """Turns what the parsers raise into one sentence about the file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} is refused as unsafe: {error}.") from None
    except TorchFileError as error:
        raise TorchFileError(f"{path} cannot be read: {error}.") from None
    except safetensors.SafetensorError as error:
        raise TorchFileError(
            f"{path} is a damaged or truncated safetensors file ({error}): copy it "
            "again."
        ) from None
    except zipfile.BadZipFile as error:
        raise _explain_no_archive(path, str(error)) from None


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
        unpickle(start)
    except UnsafeFileError as error:
        return UnsafeFileError(f"{path} is refused as unsafe: {error}.")
    except TorchFileError:
        pass  # It was not even a pickle.
    if start.startswith(b"\x80"):
        return TorchFileError(
            f"{path} was written by PyTorch before 1.6 or is no checkpoint: load it "
            "with PyTorch and save it again with torch.save(checkpoint, path)."
        )
    return TorchFileError(
        f"{path} is neither a PyTorch nor a safetensors file: it begins with "
        f"{start[:24]!r}."
    )


def _is_safetensors(path: Path) -> bool:
    """A safetensors file begins with the length of its JSON header."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _root(archive: zipfile.ZipFile) -> str:
    """Returns the folder that torch.save puts everything into."""
    names = archive.namelist()
    roots = [
        name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")
    ]
    if not roots:
        raise TorchFileError("it is a zip archive, but none that torch.save wrote")
    if f"{roots[0]}constants.pkl" in names:
        raise TorchFileError(
            "it is a TorchScript program; save the state_dict() of the model instead"
        )
    return roots[0]


def _load(archive: zipfile.ZipFile) -> Any:
    """Returns what was saved, its tensors still unread."""
    return unpickle(archive.read(f"{_root(archive)}data.pkl"))


def _read(archive: zipfile.ZipFile, tensor: Tensor) -> np.ndarray:
    """Returns the numbers of a tensor."""
    root, storage = _root(archive), tensor.storage
    try:
        data = archive.read(f"{root}data/{storage.key}")
    except KeyError:
        raise TorchFileError(f"its storage {storage.key} is missing") from None
    itemsize = storage.dtype.itemsize
    if len(data) != storage.size * itemsize:
        raise TorchFileError(
            f"its storage {storage.key} is not as long as it should be"
        )
    is_big = f"{root}byteorder" in archive.namelist() and (
        archive.read(f"{root}byteorder") == b"big"
    )
    # Through unsigned integers, because bfloat16 has no byte order in numpy.
    numbers = np.frombuffer(data, f"{'>' if is_big else '<'}u{itemsize}")
    numbers = numbers.astype(f"=u{itemsize}")[tensor.offset :]
    strides = [step * itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides)
    return np.copy(view, order="C").view(storage.dtype)


def _find_state_dict(contents: Any) -> dict[str, Tensor]:
    """Returns the tensors by name, from wherever checkpoints keep them."""
    if not isinstance(contents, Mapping):
        raise TorchFileError(
            f"it holds a {type(contents).__name__} instead of a dictionary of tensors"
        )
    for key in ("model", "state_dict"):
        if key in contents:
            contents = contents[key]
            break
    if not isinstance(contents, Mapping) or not contents:
        raise TorchFileError(
            "it holds no tensors by name; if it holds a whole model, save its "
            "state_dict()"
        )
    others = [str(name) for name, x in contents.items() if not isinstance(x, Tensor)]
    if others:
        raise TorchFileError(
            f"these of its entries are not tensors: {', '.join(others[:8])}"
            + (f" and {len(others) - 8} more" if len(others) > 8 else "")
            + "; expected a state dict, alone or under 'model' or 'state_dict'"
        )
    return {str(name): x for name, x in contents.items()}


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
