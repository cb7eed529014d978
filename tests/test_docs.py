"""The examples of README.md and docs/ run as they stand."""

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest
from flax import nnx

import convert_torch_weights
import litv2_jax
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.train import run_command
from tests.programs import Program
from tests.reference import GOLDEN

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/api.md",
    "docs/benchmarks.md",
    "docs/clusters.md",
    "docs/conversion.md",
    "docs/deployment.md",
    "docs/detection.md",
    "docs/experiments.md",
    "docs/finetuning.md",
    "docs/gallery.md",
    "docs/parity.md",
    "docs/published.md",
    "docs/segmentation.md",
    "docs/training.md",
    "docs/visualization.md",
]


def code(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has the files that the examples speak of."""
    folder = tmp_path_factory.mktemp("docs")
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0))
    arrays = litv2_jax.to_torch_state_dict(model)
    write_torch_checkpoint(folder / "litv2_s.pth", arrays)
    tiny = GOLDEN / "litv2_tiny_checkpoint_bare.pth"
    convert_torch_weights.main([str(tiny), str(folder / "weights" / "tiny")])
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if code(page, "python")])
def test_examples_in_python_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Its litv2_s.pth is taken for the published one.
    monkeypatch.setenv("LITV2_JAX_CACHE", str(folder))
    examples = "\n".join(code(page, "python"))
    if "onnxruntime" in examples:
        for name in ("onnx", "onnxruntime"):
            pytest.importorskip(name, reason="pip install 'litv2_jax[test]'")
    exec(examples, {})


def commands() -> list[list[str]]:
    blocks = "\n".join(block for page in PAGES for block in code(page, "bash"))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def flags_of_train():
    """The flags that train.py says it has."""
    program = Program(run_command, "--config=configs/cifar.py", "--help")
    program.wait()
    return set(re.findall(r"--(?:\[no\])?([\w-]+)", program.stdout))


def test_commands_of_train_name_recipes_and_flags_that_exist(flags_of_train):
    found = [
        words[words.index(program) + 1 :]
        for words in commands()
        for program in ("train.py", "litv2-train")
        if program in words
    ]
    assert len(found) >= 8
    for words in found:
        flags = [word for word in words if word.startswith("--")]
        names = [flag.removeprefix("--").partition("=")[0] for flag in flags]
        settings = [name for name in names if name.startswith("config.")]
        assert {*names} - {*settings} <= flags_of_train, words
        path, _, argument = words[words.index("--config") + 1].partition(":")
        recipe = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        config = recipe.get_config(*[argument] * bool(argument))
        for name in settings:
            *sections, last = name.removeprefix("config.").split(".")
            assert last in functools.reduce(getattr, sections, config), words


def test_make_knows_the_targets():
    targets = {
        words[1] for words in commands() if words[0] == "make" and len(words) == 2
    }
    assert targets == {
        "demo",
        "demo-finetune",
        "demo-segmentation",
        "demo-detection",
        "test",
    }
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert f"\n{target}: install" in makefile


def test_options_of_the_converter_exist():
    source = (ROOT / "litv2_jax" / "convert_torch_weights.py").read_text()
    page = (ROOT / "docs" / "conversion.md").read_text()
    options = set(re.findall(r"--[a-z][a-z-]+", page))
    assert len(options) >= 8
    for option in options:
        assert f'"{option}"' in source, option


def test_options_of_predict_and_export_exist():
    page = (ROOT / "docs/deployment.md").read_text()
    predict, export = page.split("## Export")
    for text, file, least in (
        (predict, "prediction_options.py", 3),
        (export, "export.py", 8),
    ):
        source = (ROOT / "litv2_jax" / file).read_text()
        options = set(re.findall(r"`(--[a-z-]+)", text))
        assert len(options) >= least
        for option in options:
            assert f'"{option}"' in source, option


def test_options_of_reproduce_exist():
    page = (ROOT / "docs" / "published.md").read_text()
    source = (ROOT / "litv2_jax" / "reproduce.py").read_text()
    options = set(re.findall(r"`(--[a-z-]+)", page.split("## Reproducing")[1]))
    assert len(options) >= 8
    for option in options:
        assert f'"{option}"' in source, option


def test_options_of_prepare_exist():
    source = (ROOT / "litv2_jax" / "prepare.py").read_text()
    names = ("training.md", "segmentation.md", "detection.md")
    pages = [ROOT / "docs" / name for name in names]
    text = "".join(page.read_text() for page in pages)
    found = re.findall(r"python -m litv2_jax.prepare\s([^`\n]+)", text)
    assert len(found) >= 4
    for words in map(str.split, found):
        assert f'add_parser("{words[0]}"' in source
        for option in words[1:]:
            assert not option.startswith("--") or f'"{option}"' in source, option
