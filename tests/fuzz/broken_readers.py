"""Readers with one fault each, which the judge has to find."""

import os
import time

import numpy as np

from litv2_jax.convert.errors import TorchFileError
from litv2_jax.convert.torch_file import read_torch_checkpoint


def changes_a_number(path):
    arrays = read_torch_checkpoint(path)
    for array in arrays.values():
        if array.size:
            array.flat[0] += 1
            break
    return arrays


def loses_an_array(path):
    arrays = read_torch_checkpoint(path)
    del arrays[next(iter(arrays))]
    return arrays


def changes_a_type(path):
    return {k: x.astype("f8") for k, x in read_torch_checkpoint(path).items()}


def raises_another_error(path):
    raise KeyError("a")


def exits(path):
    raise SystemExit(1)


def gives_no_reason(path):
    raise TorchFileError(f"{path} cannot be read: its pickle is damaged ().")


def does_not_name_the_file(path):
    raise TorchFileError("The file cannot be read: its pickle is damaged (too short).")


def lets_escapes_through(path):
    raise TorchFileError(f"{path} cannot be read: its storage \x1b[2J is missing.")


def speaks_of_an_exception(path):
    raise TorchFileError(f"{path} cannot be read: RecursionError in the pickle.")


def lacks_memory(path):
    raise TorchFileError(f"{path} cannot be read: there is not enough memory for it.")


def says_too_much(path):
    raise TorchFileError(f"{path} cannot be read: {'too long ' * 1000}.")


def takes_too_long(path):
    while time.process_time() < 2.5:
        pass
    return read_torch_checkpoint(path)


def never_ends(path):
    while True:
        pass


def takes_memory(path):
    taken = np.ones(300 * 2**20, np.uint8)
    return read_torch_checkpoint(path) if taken[-1] else {}


def crashes(path):
    os.abort()
