"""Checks of settings that several tasks have."""

from litv2_jax.settings import ConfigError


def check_scale(scale: tuple[int, int]) -> None:
    """Raises ConfigError unless the longest side comes first."""
    if scale[0] < scale[1]:
        raise ConfigError(
            f"config.data.scale is {scale}; give the longest side, then the shortest."
        )


def check_group_size(name: str, size: int, batch_size: int, whole: str) -> None:
    """Raises ConfigError unless groups of images divide a batch.

    Args:
        name: Of the setting.
        size: Images of a group; 0, or more than a batch has, takes the whole batch.
        batch_size: Images of a batch.
        whole: What 0 is for.
    """
    group = min(size, batch_size)
    if group and batch_size % group:
        raise ConfigError(
            f"config.{name} is {group}, which does not divide config.batch_size, "
            f"{batch_size}: use a divisor of it, or 0 {whole}."
        )
