"""Recognizes a model by the shapes of its arrays, and explains why two do not fit."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from litv2_jax.convert.entries import BACKBONE, FIRST_LAYER
from litv2_jax.convert.errors import describe_value
from litv2_jax.models.backbone import VARIANTS, BackboneConfig
from litv2_jax.models.families import CLASSIFIER
from litv2_jax.models.family import Family, Shapes, list_families, side_of
from litv2_jax.models.image_sizes import NUM_STAGES


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a LITv2 that shapes show: not the windows, not the heads.

    Attributes:
        embed_dim: Channels of the first stage.
        depths: Blocks of each stage.
        low_dims: Lo-Fi channels of each stage, -1 where there is no attention.
    """

    embed_dim: int
    depths: tuple[int, ...]
    low_dims: tuple[int, ...]

    def __str__(self) -> str:
        names = [name for name in VARIANTS if self == architecture_of(VARIANTS[name])]
        sizes = f"embed_dim {self.embed_dim}, depths {self.depths}"
        sizes += f", Lo-Fi channels {self.low_dims}"
        return f"{' or '.join(names) or 'no published variant'} ({sizes})"


def architecture_of(config: BackboneConfig) -> Architecture:
    """Returns the architecture that the shapes of a backbone will show."""
    low_dims = []
    for dim, heads, window in zip(
        config.dims, config.num_heads, config.window_sizes, strict=True
    ):
        low_heads = heads if window == 1 else int(heads * config.alpha)
        low_dims.append(low_heads * (dim // heads) if window else -1)
    return Architecture(config.embed_dim, config.depths, tuple(low_dims))


def find_family(shapes: Shapes) -> Family | None:
    """Returns the family of the model with these arrays; None if there is none."""
    if not any(name.startswith(BACKBONE) for name in shapes):
        # Perhaps without its head.
        return CLASSIFIER if FIRST_LAYER in shapes else None
    for family in list_families():
        if family.torch_backbone and f"{family.torch_heads[0]}.weight" in shapes:
            return family
    return None


def is_backbone(name: str) -> bool:
    """Returns whether a dense model has an array in common with a classifier.

    Args:
        name: PyTorch name in the dense model, which adds norms of the maps.
    """
    is_norm = re.match(r"backbone\.norm\d", name)
    return name.startswith(BACKBONE) and not is_norm


def read_architecture(shapes: Shapes) -> Architecture | None:
    """Reads the architecture from a model's shapes; None if it is not a LITv2."""
    shapes = {name.removeprefix(BACKBONE): shape for name, shape in shapes.items()}
    blocks = {
        (int(match[1]), int(match[2]))
        for name in shapes
        if (match := re.match(r"layers\.(\d{1,4})\.blocks\.(\d{1,4})\.", name))
    }
    embed_dim = side_of(FIRST_LAYER)(shapes)
    if not embed_dim or not blocks:
        return None
    stages = range(NUM_STAGES)
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in stages)
    low_dims = tuple(_low_dim(shapes, f"layers.{i}.blocks.0.attn.") for i in stages)
    return Architecture(embed_dim, depths, low_dims)


def sizes_with_shapes(found: Architecture) -> dict[str, Any] | None:
    """Returns arguments of `create_model` that give an architecture's shapes.

    The numbers of heads are the smallest that do: the weights fit, but the attention
    need not be the one that they were trained with. None if no alpha fits all stages.
    """
    dims = BackboneConfig(embed_dim=found.embed_dim, num_heads=(1, 1, 1, 1)).dims
    num_heads, window_sizes, alpha = [], [], 0.0
    for dim, low in zip(dims, found.low_dims, strict=True):
        is_split = 0 <= low < dim
        num_heads.append(dim // math.gcd(dim, low) if is_split else 1)
        window_sizes.append(2 if is_split else int(low == dim))
        # A little above the fraction, so that rounding does not fall below it.
        alpha = max(alpha, low / dim + 1e-6) if is_split else alpha
    sizes = {
        "embed_dim": found.embed_dim,
        "depths": found.depths,
        "num_heads": tuple(num_heads),
        "window_sizes": tuple(window_sizes),
        "alpha": alpha,
    }
    return sizes if architecture_of(BackboneConfig(**sizes)) == found else None


def _low_dim(shapes: Shapes, attention: str) -> int:
    if f"{attention}l_q.weight" in shapes:
        return side_of(f"{attention}l_q.weight")(shapes)
    return 0 if f"{attention}h_qkv.weight" in shapes else -1


def num_classes_of(shapes: Shapes) -> int:
    """Returns the size of a model's logits, 0 if it has no head."""
    family = find_family(shapes)
    return read_own_sizes(shapes, family)["num_classes"] if family else 0


def read_in_chans(shapes: Shapes) -> int:
    """Returns the channels of the images that a model takes; 0 if it is no LITv2."""
    shapes = {name.removeprefix(BACKBONE): shape for name, shape in shapes.items()}
    return side_of(FIRST_LAYER, 1)(shapes)


def recognize_variant(shapes: Shapes) -> str | None:
    """Returns the first name of a model with these shapes, if there is one.

    `litv2_b_384` has the same shapes as `litv2_b`, and `retinanet_litv2_s_window4` as
    `retinanet_litv2_s`.
    """
    found, family = read_architecture(shapes), find_family(shapes)
    for name, config in family.configs.items() if family else ():
        if architecture_of(config.backbone) == found:
            return name
    return None


def explain_difference(file: Shapes, model: Shapes) -> str:
    """Returns a sentence on why a file does not fit a model.

    Args:
        file: Shapes of the file's arrays by PyTorch name.
        model: The same of the model.
    """
    is_dense = any(name.startswith(BACKBONE) for name in file)
    if is_dense and find_family(file) is not find_family(model):
        return (
            "The file is that of a segmentation or detection model (its names begin "
            "with backbone.), the model is not, or another one."
        )
    ours, theirs = read_architecture(model), read_architecture(file)
    if ours is None or theirs is None:
        return (
            "Likely causes: weights of another kind of model, or for a HiLo alone "
            "another dim, num_heads, alpha or qkv_bias."
        )
    if (ours.embed_dim, ours.depths) != (theirs.embed_dim, theirs.depths):
        return (
            f"Likely cause: another variant. The file is {theirs}; the model is {ours}."
        )
    if ours.low_dims != theirs.low_dims:
        return (
            f"Likely cause: another alpha. The file is {theirs}; the model is {ours}."
        )
    channels = read_in_chans(file), read_in_chans(model)
    if channels[0] != channels[1]:
        return (
            f"Likely cause: the file is for images of {channels[0]} channels, the "
            f"model for {channels[1]}, and only weights for 3 channels can be adapted. "
            f"Create the model with in_chans={channels[0]}."
        )
    classes = num_classes_of(file), num_classes_of(model)
    if classes[0] != classes[1]:
        return (
            f"Likely cause: the file has a head for {classes[0]} classes, the model "
            f"one for {classes[1]}. Create the model with num_classes={classes[0]}, "
            f"or convert the file with --num-classes {classes[1]} to start with a new "
            "head."
        )
    return "The architecture is the same: the file is damaged, incomplete or altered."


def read_own_sizes(shapes: Shapes, family: Family) -> dict[str, int]:
    """Returns the sizes that a family has beside those of the backbone.

    Args:
        shapes: Of a model of this family.
        family: From `find_family`.

    Returns:
        Arguments of `create_model`; 0 for what the arrays do not show.
    """
    return {size: read(shapes) for size, read in family.torch_sizes.items()}


def read_sizes(config: Mapping[str, Any], found: Architecture) -> dict[str, Any]:
    """Returns the sizes that the original's training configuration names.

    Args:
        config: From `read_torch_config`; may be empty, and is not trusted.
        found: What the arrays beside it show.

    Returns:
        Those arguments of `create_model` that the configuration has.

    Raises:
        ValueError: If one is not a valid size, or differs from that of the arrays.
    """
    lit = read_section(config, "MODEL", "LIT")
    sizes: dict[str, Any] = {}
    for ours, (theirs, is_valid) in _SIZES_IN_CONFIG.items():
        if theirs not in lit:
            continue
        value = lit[theirs]
        value = tuple(value) if type(value) in (list, tuple) else value
        if not is_valid(value):
            raise ValueError(
                f"its settings say that {theirs} is {describe_value(value)}"
            )
        if value != getattr(found, ours, value):
            raise ValueError(
                f"its settings say that {theirs} is {describe_value(value)}, its "
                f"arrays show {getattr(found, ours)}"
            )
        sizes[ours] = value
    return sizes


def read_image_size(config: Mapping[str, Any]) -> int | None:
    """Returns the side of the images that a training configuration names, if any.

    Args:
        config: As for `read_sizes`.
    """
    size = read_section(config, "DATA").get("IMG_SIZE")
    return size if _is_size(size) and size else None


def read_section(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Returns a section of a configuration, empty if there is none."""
    section: Any = config
    for name in names:
        section = section.get(name) if isinstance(section, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10_000


def _are_sizes(value: Any) -> bool:
    is_tuple = type(value) is tuple and len(value) == NUM_STAGES
    return is_tuple and all(map(_is_size, value))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


_SIZES_IN_CONFIG: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "embed_dim": ("EMBED_DIM", _is_size),
    "depths": ("DEPTHS", _are_sizes),
    "num_heads": ("NUM_HEADS", _are_sizes),
    "window_sizes": ("LOCAL_WS", _are_sizes),
    "alpha": ("ALPHA", _is_share),
}
