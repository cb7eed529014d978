"""The site has all pages, and links lead somewhere, there and in the repository."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import litv2_jax

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "finetune.ipynb"


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_cells(kind):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def read_page(path):
    """Returns the Markdown of a page or notebook, without blocks of code."""
    if path.suffix == ".ipynb":
        cells = read_cells("markdown")
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def find_anchors(text):
    """Returns the anchors that GitHub and the site give to headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in words}


def test_the_navigation_has_every_page(conf):
    pages = {"CONTRIBUTING", "CHANGELOG"}
    pages |= {f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")}
    pages |= {f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.ipynb")}
    assert set(conf.PAGES) == pages
    assert len(conf.PAGES) == len(pages)


def test_links_lead_to_files_and_headings(conf):
    names = ["README.md", *(f"{page}.*" for page in conf.PAGES)]
    paths = [path for name in names for path in ROOT.glob(name)]
    assert len(paths) == len(names)
    num_links = 0
    for path in paths:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", read_page(path)):
            name, _, anchor = target.partition("#")
            place = path.parent / name if name else path
            assert place.is_file(), (path, target)
            if anchor:
                assert anchor in find_anchors(read_page(place)), (path, target)
            num_links += 1
    assert num_links > 50


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    found = set(
        re.findall(r"::(?: litv2_jax\.)(?:export\.)?(\w+)$", page, re.MULTILINE)
    )
    assert found == set(litv2_jax.__all__)


def test_the_notebook_was_run_in_order_or_not_at_all_and_is_small():
    cells = read_cells("code")
    counts = [cell["execution_count"] for cell in cells]
    assert counts in ([None] * len(cells), list(range(1, len(cells) + 1)))
    for cell in cells:
        compile("".join(cell["source"]), "cell", "exec")
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert NOTEBOOK.stat().st_size < 300_000
    # Of the machine that ran it.
    assert not re.search(r"[ \"/](tmp|home|root|work)/", NOTEBOOK.read_text())


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in read_cells("code"):
        exec("".join(cell["source"]), names)
    # By chance it would be a fifth.
    assert names["finetuned"]["top1"] > 0.4
    assert names["image"].size[0] > 300


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("`make docs` installs Sphinx, and runs this build, too")
    options = ["--fail-on-warning", "--quiet", "-c", ROOT / "docs"]
    subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ROOT, tmp_path],
        check=True,
        timeout=600,
    )
    reference = (tmp_path / "docs" / "api.html").read_text()
    assert all(f'id="litv2_jax.{name}"' in reference for name in ("HiLo", "fit"))
    assert "README.html" in (tmp_path / "index.html").read_text()
    assert "docs/gallery.html" in (tmp_path / "README.html").read_text()
