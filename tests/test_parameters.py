"""The parameters of each variant, written down, so that no change goes unnoticed.

After a wanted change: python -m tests.test_parameters
"""

from pathlib import Path

import jax
import pytest
from flax import nnx

from configs import imagenet
from litv2_jax.training.groups import ParameterGroups
from tests.reference import abstract_model

FOLDER = Path(__file__).parent / "parameters"
VARIANTS = [
    "litv2_s",
    "litv2_m",
    "litv2_b",
    "semantic_fpn_litv2_s",
    "retinanet_litv2_s",
    "mask_rcnn_litv2_s",
]


def describe(name: str) -> str:
    model = abstract_model(name)
    state = nnx.to_pure_dict(nnx.state(model))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    groups = ParameterGroups(imagenet.get_config().optimizer.groups, params)
    is_decayed = {
        path: bool(groups.find(path).decay)
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    lines = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        decay = {True: "decay", False: "no decay", None: "statistic"}
        lines.append(
            f"{'/'.join(str(key.key) for key in path)} {tuple(leaf.shape)} "
            f"{leaf.dtype} {decay[is_decayed.get(path)]}"
        )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_written_down(name):
    assert describe(name) == (FOLDER / f"{name}.txt").read_text()


if __name__ == "__main__":
    for variant in VARIANTS:
        (FOLDER / f"{variant}.txt").write_text(describe(variant))
