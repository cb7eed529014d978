"""The wheel has all that the commands need, in any folder."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import litv2_jax
from tests.reference import GOLDEN

ROOT = Path(__file__).parents[1]
TORCH_FILE = GOLDEN / "litv2_tiny_checkpoint_bare.pth"
COMMANDS = {"litv2-convert", "litv2-predict", "litv2-prepare", "litv2-train"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation, so that nothing is downloaded.
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", *command, "--wheel-dir", folder, ROOT], check=True
    )
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_has_code_recipes_names_and_the_marker_of_types(wheel):
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    package = [path for path in (ROOT / "litv2_jax").rglob("*") if path.is_file()]
    expected = {
        str(path.relative_to(ROOT)) for path in package if path.suffix != ".pyc"
    }
    recipes = {f"litv2_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    assert found == expected | recipes
    assert {"litv2_jax/py.typed", "litv2_jax/configs/demo.py"} <= found
    assert sum(name.endswith("_classes.txt") for name in found) == 3


def test_the_wheel_names_its_version_commands_and_paper(wheel):
    with zipfile.ZipFile(wheel) as file:
        [path] = [name for name in file.namelist() if name.endswith("/METADATA")]
        metadata = file.read(path).decode()
    assert f"\nVersion: {litv2_jax.__version__}\n" in metadata
    assert "\nProject-URL: Paper, https://arxiv.org/abs/2205.13213\n" in metadata
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"].keys() == COMMANDS
    for place in project["scripts"].values():
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Returns the commands of the wheel in a new environment.

    The libraries are those of the running one, lest they be downloaded.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet"]
        + ["--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    [packages] = folder.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    return folder / "bin"


@pytest.mark.slow
def test_the_installed_commands_work_in_an_empty_folder(installed, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(name, *arguments):
        result = subprocess.run(
            [installed / name, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    code = "import litv2_jax; print(litv2_jax.__file__)"
    assert str(installed.parent) in run("python", "-c", code)
    trained = run(
        "litv2-train",
        "--config=configs/demo.py:digits",
        "--workdir=run",
        "--config.epochs=2.0",
        "--config.data.image_size=32",
        "--config.model.sizes.embed_dim=8",
    )
    assert re.search("recipe is the package's, .*/litv2_jax/configs/demo.py", trained)
    assert "top1" in trained.splitlines()[-1]
    run("litv2-prepare", "digits", "tree", "--classes", "3", "--per-class", "1")
    [image, *_] = sorted((tmp_path / "tree").rglob("*.png"))
    assert "%" in run("litv2-predict", "--weights", "run", image)
    assert "parameters" in run("litv2-convert", TORCH_FILE, "weights")
    assert (tmp_path / "weights").is_dir()
