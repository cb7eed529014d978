"""The package's layers point one way; see CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import litv2_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "litv2_jax"
# What each layer may import of the package, beside itself.
ALLOWED = {
    "paths": set(),
    "layer_groups": set(),
    "settings": {"paths"},
    "text": set(),
    "class_names": {"settings", "text"},
    "pictures": {"class_names", "text"},
    "box_pictures": {"class_names", "pictures"},
    "detected_objects": {"ops"},
    "compiler": {"settings"},
    "ops": set(),
    "augment": {"ops"},
    "metrics": {"ops", "settings", "text"},
    "models": {"ops", "settings"},
    "data": {"class_names", "ops", "paths", "settings", "text"},
    "recipes": {"text"},
    "convert": {"models", "paths"},
    "checkpoints": {"paths", "settings"},
    "weights": {
        "checkpoints",
        "class_names",
        "convert",
        "models",
        "paths",
        "settings",
        "text",
    },
    "training": {
        "checkpoints",
        "class_names",
        "compiler",
        "models",
        "paths",
        "pictures",
        "settings",
        "weights",
    },
    "tasks": {
        "models",
        "ops",
        "augment",
        "data",
        "metrics",
        "box_pictures",
        "pictures",
        "settings",
        "training",
    },
    "pretrained": {"models", "settings", "weights"},
    "prepare": {"data", "settings", "text"},
    "inference": {
        "paths",
        "models",
        "pretrained",
        "settings",
        "augment",
        "compiler",
        "data",
        "class_names",
        "detected_objects",
        "text",
        "weights",
    },
    "prediction_files": {"data", "pictures"},
    "prediction_options": {"prediction_files", "settings"},
    "predict": {
        "inference",
        "box_pictures",
        "class_names",
        "data",
        "detected_objects",
        "pictures",
        "settings",
        "text",
        "prediction_files",
        "prediction_options",
    },
    "visualize": {
        "augment",
        "data",
        "models",
        "pictures",
        "pretrained",
        "settings",
        "text",
    },
    "program": {"augment", "models", "paths", "settings"},
    "stablehlo": {"program", "settings"},
    "to_onnx": {"models", "ops", "program", "settings"},
    "export": {
        "class_names",
        "models",
        "pretrained",
        "program",
        "settings",
        "stablehlo",
        "to_onnx",
    },
    "published_tables": {"recipes", "settings", "weights"},
    "score_page": {"paths", "settings", "text", "weights"},
    "reproduce": {
        "compiler",
        "paths",
        "published_tables",
        "score_page",
        "settings",
        "tasks",
        "text",
        "training",
        "weights",
    },
    "fitting": {"settings", "tasks", "training"},
    "train": {
        "checkpoints",
        "compiler",
        "convert",
        "data",
        "fitting",
        "recipes",
        "settings",
        "tasks",
        "text",
        "training",
        "weights",
    },
    "convert_torch_weights": {
        "checkpoints",
        "class_names",
        "convert",
        "models",
        "paths",
        "pretrained",
        "settings",
        "text",
        "weights",
    },
    "__init__": {
        "compiler",
        "models",
        "ops",
        "convert",
        "export",
        "fitting",
        "inference",
        "pretrained",
        "recipes",
        "weights",
    },
}
# These build or check, but never run when a model is trained, evaluated or converted.
FORBIDDEN = {"torch", "tensorflow", "timm", "sklearn", "yacs"}


def imports(path: Path):
    """Yields the modules that a file imports, and whether a function does it."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        is_inside = node not in tree.body
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", is_inside
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, is_inside


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_layers_import_only_what_is_below_them(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "litv2_jax":
            assert parts[1] in ALLOWED[layer] | {layer}, f"{layer} imports {name}"


def test_tasks_see_only_the_interface_of_training():
    for path in (PACKAGE / "tasks").glob("*.py"):
        for name, _ in imports(path):
            if name.startswith("litv2_jax.training"):
                assert name.startswith("litv2_jax.training.task")


def test_training_knows_of_models_how_to_split_them_alone():
    for path in (PACKAGE / "training").glob("*.py"):
        for name, _ in imports(path):
            if name.startswith("litv2_jax.models"):
                assert name.startswith("litv2_jax.models.state")


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, litv2_jax; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"grain", "matplotlib", "optax", "orbax", "safetensors", "tensorboardX"}
    heavy |= {"PIL", "tensorflow_datasets", "tensorstore"}
    # Flax itself imports some of them.
    code = "import sys, flax.nnx; print(*sys.modules)"
    flax = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not heavy & set(loaded) - set(flax)
    assert "litv2_jax.models" not in loaded


def test_every_public_name_is_there():
    assert set(litv2_jax._MODULES) == set(litv2_jax.__all__)
    for name in litv2_jax.__all__:
        assert callable(getattr(litv2_jax, name))
        assert name in dir(litv2_jax)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        litv2_jax.absent  # noqa: B018


@pytest.mark.parametrize("name", ["orbax", "tensorboardX", "wandb"])
def test_one_file_knows_each_of_these(name):
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for module, _ in imports(path)
        if module.split(".")[0] == name
    }
    assert len(users) == 1


def test_nothing_needs_pytorch_or_tensorflow():
    for path in PACKAGE.rglob("*.py"):
        for name, is_inside in imports(path):
            is_builder = path.name == "digits.py" and is_inside
            assert name.split(".")[0] not in FORBIDDEN or is_builder, path


@pytest.mark.parametrize("name", ["train", "convert_torch_weights"])
def test_programs_of_the_checkout_only_call_the_package(name):
    names = [name for name, _ in imports(ROOT / f"{name}.py")]
    assert len(names) == 1
    assert names[0].startswith(f"litv2_jax.{name}.")


def test_recipes_are_tables():
    for path in (ROOT / "configs").glob("*.py"):
        names = {name.rpartition(".")[0] for name, _ in imports(path)}
        assert names - {"litv2_jax.layer_groups", "typing"} == {"ml_collections"}
