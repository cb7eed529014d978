"""Configuration of Sphinx: README.md, docs/ and the docstrings as a site.

The source is the whole checkout, so that links between files lead to the same places in
the repository and on the site. `make docs` builds it.
"""

from pathlib import Path
from typing import Any

import litv2_jax

project = "litv2_jax"
version = release = litv2_jax.__version__
html_title = f"litv2_jax {version}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
# In the order of the navigation.
PAGES = [
    "docs/gallery",
    "docs/finetune",
    "docs/training",
    "docs/clusters",
    "docs/finetuning",
    "docs/segmentation",
    "docs/detection",
    "docs/conversion",
    "docs/published",
    "docs/deployment",
    "docs/visualization",
    "docs/api",
    "docs/parity",
    "docs/benchmarks",
    "docs/experiments",
    "CONTRIBUTING",
    "CHANGELOG",
]
include_patterns = ["README.md", *(f"{page}.*" for page in PAGES)]
exclude_patterns = [".*", "build", "litv2_jax", "runs", "tests"]

myst_heading_anchors = 4
# Only the outputs that the notebook has stored, if any; a test runs it.
nb_execution_mode = "off"

# Docstrings are in Google's style, and code in them is in single backticks.
default_role = "code"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_copy_source = False


def add_navigation(app: Any, name: str, source: list[str]) -> None:
    """Adds the table of contents, which the repository's README does without."""
    if name == root_doc:
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *PAGES, "```", ""])


def write_index(app: Any, error: Exception | None) -> None:
    """Makes the folder of the site open at README."""
    redirect = '<meta http-equiv="refresh" content="0; url=README.html">\n'
    Path(app.outdir, "index.html").write_text(redirect)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_index)
