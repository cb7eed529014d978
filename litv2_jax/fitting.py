"""Trains recipes from Python, as `train.py` does from the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from litv2_jax import tasks
from litv2_jax.settings import parse_path
from litv2_jax.training import loop
from litv2_jax.training.profile import StepRange
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.workdir import RunConfig, check_place


def fit(
    config: ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    *,
    profiled: StepRange | None = None,
    change_config: bool = False,
    skip_damaged: bool = False,
) -> dict[str, float]:
    """Trains a recipe to the end, resuming the run in the workdir, if any.

    Args:
        config: The recipe, such as `read_recipe` returns.
        workdir: Gets checkpoints, logs and the report.
        profiled: Steps to write a trace of; none by default.
        change_config: Whether to resume a run although its settings have changed.
        skip_damaged: Whether to resume from the latest checkpoint that is not damaged.

    Returns:
        The scores of the last evaluation.

    Raises:
        ConfigError: If a setting is impossible, or the workdir does not fit the run.
        StoppedError: If SIGTERM or Ctrl-C asked to stop; a checkpoint has been saved.
        TrainingError: If the run diverges.
    """
    config = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    run, rest = RunSettings.split(config)
    run.check(jax.device_count())
    workdir = parse_path(workdir, "workdir")
    check_place(workdir)
    stored = RunConfig(
        config,
        workdir,
        may_change=change_config,
        defaults=RunSettings.defaults() | tasks.DEFAULTS,
    )
    task = tasks.create_task(run.task, rest, batch_size=run.batch_size, seed=run.seed)
    return loop.fit(
        task,
        run,
        workdir,
        profiled=profiled,
        on_begin=stored.write,
        skip_damaged=skip_damaged,
        recipe=config,
    )
