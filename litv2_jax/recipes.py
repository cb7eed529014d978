"""Reads recipes: Python files whose `get_config` returns a ConfigDict."""

import importlib.machinery
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from litv2_jax.text import literal

_PACKAGE = Path(__file__).parent


def read_recipe(path: str) -> ConfigDict:
    """Returns a recipe of this package or of a file.

    Args:
        path: The file and, after a colon, the argument of its `get_config`, such as
            `configs/demo.py:digits`. A file that does not exist is looked up in the
            package.

    Raises:
        ValueError: If there is no such file, or it does not return a recipe.
    """
    return RecipeParser("config").parse(path)


def find_recipe(file: str) -> str:
    """Returns the path of a recipe: the file given, else the package's of that name.

    Raises:
        ValueError: If there is neither.
    """
    if os.path.lexists(file):
        return file
    known = {f"configs/{path.name}": path for path in _recipe_folder().glob("*.py")}
    if file not in known:
        raise ValueError(
            f"{literal(file)}: No such file or directory; the recipes of the package "
            f"are {', '.join(sorted(known))}."
        )
    return str(known[file])


def _recipe_folder() -> Path:
    """Returns the folder of recipes, which is beside the package in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.exists() else _PACKAGE.parent / "configs"


class RecipeParser(config_flags.ConfigFileFlagParser):
    """Parses the value of `--config`, and says in one line what is wrong with it."""

    def parse(self, path: str) -> ConfigDict:
        """Returns the recipe of a file, such as `configs/demo.py:digits`.

        Args:
            path: The file and, after a colon, the argument of its `get_config`.

        Raises:
            ValueError: If there is no such file, or it does not return a recipe.
        """
        file, *argument = path.split(":", 1)
        config = _run(find_recipe(file), argument)
        if not isinstance(config, ConfigDict):
            raise ValueError(
                f"get_config in {file} returned {type(config).__name__}; it must "
                "return an ml_collections.ConfigDict."
            )
        config.lock()
        return config


def _run(file: str, argument: list[str]) -> Any:
    """Returns what the function `get_config` of a file returns."""
    # Writes no bytecode beside the recipe.
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        # This loader accepts any suffix.
        loader = importlib.machinery.SourceFileLoader("recipe", file)
        spec: Any = importlib.util.spec_from_loader("recipe", loader)
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ValueError(f"{file} has no function get_config.")
        config = module.get_config(*argument)
        if isinstance(config, ConfigDict):
            config.to_dict()  # Raises OSError where a value is still to be given.
        return config
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}.") from None
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{file} is not Python ({error.msg}{where}).") from None
    except ValueError as error:
        # What a recipe raises on purpose.
        raise ValueError(" ".join(str(error).split()) or f"{file} failed.") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f" in line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file} failed{where}: {type(error).__name__}: {reason}"
        ) from None
    finally:
        sys.dont_write_bytecode = writes_bytecode
