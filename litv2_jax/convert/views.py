"""Views of storages: which numbers a tensor has, checked against the storage."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

from litv2_jax.convert.errors import TorchFileError, describe_value, printable
from litv2_jax.convert.pickled_objects import Tensor

STORAGE_TYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

MAX_DIMENSIONS = 16


class View(NamedTuple):
    """The part of a storage that a tensor has, in numbers rather than bytes.

    Attributes:
        key: Name of the storage.
        dtype: Type of its numbers.
        size: How many it has, according to the pickle.
        offset: Where the view begins.
        shape: Of the view.
        strides: Steps from one number to the next, 0 for sides of 1.
    """

    key: str
    dtype: np.dtype
    size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of an array with these numbers, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def take(
        self, data: bytearray, is_big_endian: bool, *, is_alone: bool
    ) -> np.ndarray:
        """Returns the numbers.

        Args:
            data: All bytes of the storage.
            is_big_endian: Their order.
            is_alone: Whether nothing else needs the storage, so that the array may be a
                view of it.

        Raises:
            TorchFileError: If the storage has another length than the pickle says.
        """
        itemsize = self.dtype.itemsize
        if len(data) != self.size * itemsize:
            raise TorchFileError(
                f"its storage {printable(self.key, 40)} is not as long as it should be"
            )
        # Through unsigned integers, because bfloat16 has no byte order in numpy.
        stored = np.dtype(f"{'>' if is_big_endian else '<'}u{itemsize}")
        strides = [step * itemsize for step in self.strides]
        # This constructor checks the bounds once more.
        view = np.ndarray(self.shape, stored, data, self.offset * itemsize, strides)
        copy = None if is_alone else True
        numbers = np.array(view, f"=u{itemsize}", order="C", copy=copy)
        # Any byte may stand for a truth value in a file, but not in numpy.
        is_truth = self.dtype == np.bool_
        return numbers.astype(bool) if is_truth else numbers.view(self.dtype)


def make_view(name: str, tensor: Tensor, file_size: int) -> View:
    """Returns the view that a tensor describes.

    Args:
        name: Of the tensor, for messages.
        tensor: From the pickle, not trusted.
        file_size: Bytes of the file.

    Raises:
        TorchFileError: If the view is impossible, or larger than the file.
    """
    (kind, key, size), offset, shape, strides = tensor
    name = printable(name)
    if kind.module != "torch" or kind.name not in STORAGE_TYPES:
        raise TorchFileError(f"{name} holds numbers of the unknown type {kind}")
    layout = f"offset {describe_value(offset)}, shape {describe_value(shape)} and "
    layout += f"strides {describe_value(strides)}"
    is_layout = (
        type(shape) is type(strides) is tuple
        and len(shape) == len(strides) <= MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
    )
    if not is_layout:
        raise TorchFileError(f"{name} has the impossible layout of {layout}")
    # Also where one side is 0: numpy multiplies the others.
    is_small = max(size, *shape, 0) <= file_size
    if not is_small or math.prod(max(n, 1) for n in shape) > file_size:
        raise TorchFileError(f"{name} is larger than the file, with {layout}")
    if 0 in shape:
        offset, strides = 0, (0,) * len(shape)
    strides = tuple(s if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= size and 0 not in shape:
        raise TorchFileError(
            f"{name} reaches beyond the end of its storage {printable(key, 40)} of "
            f"{size} numbers, with {layout}"
        )
    return View(key, STORAGE_TYPES[kind.name], size, offset, shape, strides)
