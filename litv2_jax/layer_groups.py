"""Parameter groups that recipes for fine-tuning share: `optimizer.groups` by depth.

This is the one module of the package that recipes import.
"""

from collections.abc import Sequence

# Factor on the rate of the offset convolutions' kernels, in all of the recipes.
_OFFSETS = 0.01

Groups = tuple[tuple[str, float, float], ...]


def layer_groups(
    depths: Sequence[int], decay: float = 1.0, *, frozen_stages: int = 0
) -> Groups:
    """Returns groups whose learning rates fall from the head to the patch embedding.

    As in timm and BEiT, layers are the patch embedding and each of the blocks; what
    follows the backbone has the full rate, the last block `decay` times that, the one
    before it `decay ** 2`, and so on. A merging has the rate of the block after it.
    Biases and scales have no weight decay; the kernels that predict offsets have 0.01
    of the rate of their layer.

    Args:
        depths: Blocks of each stage.
        decay: Factor from one layer to the one before it; 1 gives all the same rate.
        frozen_stages: How many of the first stages are frozen, and with them the patch
            embedding and what merges into them; as many as there are freeze the
            backbone.

    Raises:
        ValueError: If the factor or the number is impossible.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay} must be above 0 and at most 1.")
    if not 0 <= frozen_stages <= len(depths):
        raise ValueError(
            f"frozen_stages={frozen_stages} must be within 0 and {len(depths)}."
        )
    groups: list[tuple[str, float, float]] = []
    if frozen_stages:
        groups.append((_frozen(frozen_stages, len(depths)), 0.0, 0.0))
    rate = decay ** (sum(depths) + 1)
    if not frozen_stages:
        groups += _layer("patch_embedding", rate)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            rate /= decay
            if stage < frozen_stages:
                continue
            place = f"stages/{stage}/blocks/{block}"
            if block or not stage:
                groups += _layer(place, rate)
                continue
            merge = f"merges/{stage - 1}"
            groups.append(
                (f"^backbone/{merge}/offset/kernel$", _round(rate * _OFFSETS), 1.0)
            )
            groups += _layer(f"({merge}|{place})", rate)
    return (*groups, ("(bias|scale)$", 1.0, 0.0))


def _layer(place: str, rate: float) -> list[tuple[str, float, float]]:
    pattern, rate = f"^backbone/{place}/", _round(rate)
    return [(f"{pattern}.*(bias|scale)$", rate, 0.0), (pattern, rate, 1.0)]


def _frozen(count: int, num_stages: int) -> str:
    if count == num_stages:
        return "^backbone/"
    places = ["patch_embedding"] + [f"stages/{i}" for i in range(count)]
    places += [f"merges/{i}" for i in range(count - 1)]
    return f"^backbone/({'|'.join(places)})/"


def _round(rate: float) -> float:
    """Returns six digits, so that the settings of a run read well."""
    return float(f"{rate:.6g}")
