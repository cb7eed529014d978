"""Whatever is wrong with a recipe is said in one line."""

import pytest

from litv2_jax.recipes import RecipeParser, find_recipe, read_recipe

GOOD = """
from ml_collections import ConfigDict
def get_config(name="x"):
    return ConfigDict({"name": name})
"""
PLACEHOLDER = """
from ml_collections import ConfigDict, config_dict
def get_config():
    return ConfigDict({"epochs": config_dict.required_placeholder(float)})
"""


def test_a_recipe_is_returned_and_nothing_is_written(tmp_path):
    (tmp_path / "r.py").write_text(GOOD)
    assert RecipeParser("config").parse(f"{tmp_path}/r.py").name == "x"
    config = RecipeParser("config").parse(f"{tmp_path}/r.py:y")
    assert config.name == "y"
    assert config.is_locked
    assert [path.name for path in tmp_path.iterdir()] == ["r.py"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", "is not Python .*in line 1"),
        ("\0\0", "is not Python"),
        ("", "has no function get_config"),
        ("get_config = 3", "has no function get_config"),
        ("def get_config(): pass", "returned NoneType; it must return an ml_coll"),
        ("def get_config(): return {'a': 1}", "returned dict; it must return"),
        ("def get_config(): return 3", "returned int; it must return"),
        ("def get_config():\n  return 1 / 0", "failed in line 2: ZeroDivisionError"),
        ("import absent_module", "failed in line 1: ModuleNotFoundError"),
        ("raise SystemExit(0)", "failed in line 1: SystemExit"),
        ("def get_config(): return get_config()", "RecursionError"),
        ("def get_config(a, b): pass", "missing 2 required positional"),
        ("raise ValueError('No such\\nrecipe.')", "No such recipe."),
        ("raise ValueError", "r.py failed."),
        (PLACEHOLDER, "None value found in required reference"),
    ],
)
def test_a_recipe_of_another_form_is_named(tmp_path, content, message):
    (tmp_path / "r.py").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        RecipeParser("config").parse(f"{tmp_path}/r.py")
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_named(tmp_path):
    for path, message in (
        (tmp_path / "absent.py", "No such file"),
        (tmp_path, "Is a directory"),
        ("", "No such file"),
        ("a\0b", "a.x00b: No such file"),
    ):
        with pytest.raises(ValueError, match=message):
            RecipeParser("config").parse(str(path))
    (tmp_path / "b.py").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="is not Python"):
        RecipeParser("config").parse(f"{tmp_path}/b.py")


def test_recipes_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_recipe("configs/demo.py:digits").data.name == "digits"
    # A file in the current folder is taken instead.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text(GOOD)
    assert read_recipe("configs/demo.py:digits").name == "digits"
    assert find_recipe("configs/demo.py") == "configs/demo.py"
    with pytest.raises(ValueError, match=r"absent.py: No such .* configs/cifar.py, "):
        read_recipe("configs/absent.py")
