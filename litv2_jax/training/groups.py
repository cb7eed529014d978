"""Groups of parameters, by patterns of their paths: rates, weight decay, freezing."""

import math
import re
from typing import Annotated, Any, NamedTuple

import jax

from litv2_jax.settings import ConfigError, Range, check_text, show

TRAINED, FROZEN = "trained", "frozen"


class _Pattern:
    """A regular expression."""

    def apply(self, value: str, name: str) -> str:
        """Returns the expression, or raises ConfigError if it is not one."""
        try:
            re.compile(check_text(value, name))
        except re.error as error:
            raise ConfigError(
                f"{name} is {show(value)}, which is not a regular expression ({error})."
            ) from None
        return value


_Factor = Annotated[float, Range(0, 1000)]
# As in a recipe: pattern, factor on the learning rate, factor on the weight decay.
GroupSettings = tuple[Annotated[str, _Pattern()], _Factor, _Factor]


class Group(NamedTuple):
    """How some of the parameters are trained.

    Attributes:
        pattern: Regular expression that their paths contain; empty for all the rest.
        rate: Factor on the largest learning rate; 0 freezes them.
        decay: Factor on the weight decay.
    """

    pattern: str
    rate: float = 1.0
    decay: float = 1.0


class ParameterGroups:
    """The group of each parameter: the first one whose pattern its path contains.

    Paths are those of the model's attributes, such as
    `backbone/stages/2/blocks/0/norm1/scale`.
    """

    def __init__(self, settings: tuple[GroupSettings, ...], params: dict[str, Any]):
        """Assigns the parameters.

        Args:
            settings: Of the recipe; parameters that none of them takes are trained at
                the full rate, with the full decay.
            params: Parameters in nested dictionaries, or shapes for them.

        Raises:
            ConfigError: If a pattern takes no parameter.
        """
        self._groups = [*(Group(*each) for each in settings), Group("")]
        self._params = params
        self._counts = [0] * len(self._groups)
        self._indices = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            name = join_path(path)
            index = next(
                i for i, g in enumerate(self._groups) if re.search(g.pattern, name)
            )
            self._indices[name] = index
            self._counts[index] += math.prod(leaf.shape)
        self._check(settings)

    def _check(self, settings: tuple[GroupSettings, ...]) -> None:
        for i, (pattern, *_) in enumerate(settings):
            if i in self._indices.values():
                continue
            is_taken = any(re.search(pattern, name) for name in self._indices)
            reason = (
                "takes no parameter that an earlier pattern has not taken: put it "
                "before that"
                if is_taken
                else "is in the path of no parameter: they are called such as "
                f"{next(iter(self._indices))}"
            )
            raise ConfigError(
                f"config.optimizer.groups has the pattern {pattern!r}, which {reason}."
            )

    def find(self, path: tuple[Any, ...]) -> Group:
        """Returns the group of a parameter, given its path in a tree."""
        return self._groups[self._indices[join_path(path)]]

    @property
    def has_frozen(self) -> bool:
        """Whether any parameter is frozen."""
        return any(not self._groups[i].rate for i in self._indices.values())

    def label(self, params: Any) -> Any:
        """Returns the tree with `trained` or `frozen` for each parameter."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: TRAINED if self.find(path).rate else FROZEN, params
        )

    def freeze(self, params: Any) -> Any:
        """Returns the parameters, the frozen ones without a gradient."""
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x if self.find(path).rate else jax.lax.stop_gradient(x),
            params,
        )

    def describe(self) -> list[str]:
        """Returns a line for each group: what it takes, and how it is trained."""
        lines = []
        for i, group in enumerate(self._groups):
            if not self._counts[i]:
                continue
            how = f"learning rate x {group.rate:g}, weight decay x {group.decay:g}"
            lines.append(
                f"{group.pattern or 'all others'}: {self._counts[i]:,} parameters, "
                + (how if group.rate else "frozen")
            )
        return lines


def join_path(path: tuple[Any, ...]) -> str:
    """Returns the path of an array in nested dictionaries, such as `head/kernel`."""
    return "/".join(str(getattr(entry, "key", entry)) for entry in path)
