"""The card of a saved model: a page in Markdown for those who find it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from litv2_jax.class_names import display_names
from litv2_jax.text import literal, shorten

_TAGS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}

_CARD = """\
---
library_name: litv2_jax
pipeline_tag: {tag}
tags:
- {tag}
- litv2
---

# {name}

LITv2 ([Fast Vision Transformers with HiLo Attention](https://arxiv.org/abs/2205.13213)),
{parameters:,} parameters, saved by `litv2_jax`. What it was trained on, under which
license, and how well it does is for its author to add.

| | |
|---|---|
| task | {task} |
| sizes | {sizes} |
| input | {input} |
| classes | {classes} |

The arrays in `model.safetensors` have the names and layouts of the original PyTorch
code, `config.json` says what create_model needs:

```python
import litv2_jax

predictor = litv2_jax.Predictor.load("FOLDER")
```
"""


def write_card(
    path: Path,
    description: Mapping[str, Any],
    task: str,
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes the card.

    Args:
        path: File to write.
        description: As in `config.json`.
        task: What the model is for.
        arrays: By PyTorch name.
    """
    sizes = dict(description["model"])
    name, num_classes = sizes.pop("name"), sizes.pop("num_classes")
    names = display_names(description["class_names"])
    # Running statistics are none.
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [x for n, x in arrays.items() if not n.endswith(statistics)]
    text = _CARD.format(
        tag=_TAGS[task] if num_classes else "image-feature-extraction",
        name=name,
        parameters=sum(math.prod(x.shape) for x in parameters),
        task=task,
        sizes=_join(sizes) or "as published",
        input=_join(description["input"]),
        classes=_describe_classes(num_classes, names),
    )
    path.write_text(text, encoding="utf-8")


def _describe_classes(num_classes: int, names: Sequence[str]) -> str:
    if not num_classes:
        return "none: the model returns features"
    shown = _escape(shorten(names, limit=20)) if names else "not named"
    return f"{num_classes}: {shown}"


def _join(values: Mapping[str, Any]) -> str:
    return _escape(", ".join(f"{name} {value}" for name, value in values.items()))


def _escape(text: str) -> str:
    """Returns text that does not end a cell of a table."""
    return literal(text).replace("|", "\\|")
