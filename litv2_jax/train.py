"""Trains a model; resumes from the latest checkpoint, if any.

litv2-train --config configs/demo.py:digits --workdir runs/digits
litv2-train --config configs/imagenet.py:litv2_s --workdir runs/s --config.seed=1
litv2-train --config configs/imagenet.py:litv2_s --eval-only --weights weights/s

In a checkout, `python train.py` is the same. Recipes that the current folder does not
have are the package's.
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from litv2_jax import tasks
from litv2_jax.checkpoints import CheckpointError
from litv2_jax.compiler import enable_compilation_cache
from litv2_jax.convert.errors import TorchFileError
from litv2_jax.data import scratch
from litv2_jax.fitting import fit
from litv2_jax.recipes import RecipeParser, find_recipe
from litv2_jax.settings import ConfigError, parse_path
from litv2_jax.text import allow_any_text, program_name
from litv2_jax.training import devices, evaluation, loop
from litv2_jax.training.dry_run import describe_run
from litv2_jax.training.failures import failing_together, watch_failures
from litv2_jax.training.launch import check_processes
from litv2_jax.training.limits import explain_limit
from litv2_jax.training.log import announce
from litv2_jax.training.profile import StepRange
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.task import Task
from litv2_jax.weights import open_weights, parse_weights

# Exit status of a run that SIGTERM or Ctrl-C ended, after it saved a checkpoint: what
# shells and schedulers report of a process that SIGTERM ends.
STOPPED = 128 + signal.SIGTERM

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe to run.")
flags.FLAGS["config"].parser = RecipeParser("config")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder for checkpoints, logs and the report, or for scores."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry-run", False, "Print steps, memory and time; train and write nothing."
)
_NO_DATA = flags.DEFINE_bool(
    "no-data",
    False,
    "With --dry-run: do without the data set, which need not be there.",
)
_EVAL_ONLY = flags.DEFINE_bool(
    "eval-only", False, "Score --weights and stop; detections go to --workdir, if any."
)
_WEIGHTS = flags.DEFINE_string(
    "weights", "", "Run, checkpoint, file or published:NAME for --eval-only."
)
_CHANGE_CONFIG = flags.DEFINE_bool(
    "change-config", False, "Resume a run although its settings have changed."
)
_SKIP_DAMAGED = flags.DEFINE_bool(
    "skip-damaged", False, "Resume from the latest checkpoint that is not damaged."
)
_PROFILE = flags.DEFINE_string(
    "profile", "", "START:STOP, steps to write a trace of into the workdir."
)
_CACHE = flags.DEFINE_string(
    "compilation-cache", "", "Folder for compiled programs; the user's cache if empty."
)
_NO_CACHE = flags.DEFINE_bool(
    "no-compilation-cache", False, "Compile everything at every start."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0; srun and mpirun need none."
)
_NUM_PROCESSES = flags.DEFINE_integer("num-processes", 1, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process-id", 0, "With --coordinator.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Runs the recipe."""
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        # Otherwise Orbax logs each step of each save; --verbosity=0 shows them.
        logging.set_verbosity(logging.WARNING)
    allow_any_text()
    devices.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    watch_failures()
    _announce_recipe()
    try:
        with failing_together(loop.StoppedError):
            results = _run(_CONFIG.value.to_dict())
    except loop.StoppedError as error:
        print(f"{program_name()}: {error}", file=sys.stderr)
        sys.exit(STOPPED)
    except (
        ConfigError,
        TorchFileError,
        loop.TrainingError,
        CheckpointError,
        OSError,
    ) as error:
        sys.exit(f"{program_name()}: {explain_limit(error) or error}")
    except Exception as error:
        if reason := explain_limit(error):
            sys.exit(f"{program_name()}: {reason}")
        raise
    if results and jax.process_index() == 0:
        print(", ".join(f"{name} {value:.6g}" for name, value in results.items()))


def _run(config: dict[str, Any]) -> dict[str, float]:
    given = _WEIGHTS if _EVAL_ONLY.value else _WORKDIR
    if not given.value and not _DRY_RUN.value:
        raise ConfigError(f"Add --{given.name} FOLDER to the command.")
    profiled = StepRange.parse(_PROFILE.value)
    _keep_compiled_programs()
    run, rest = RunSettings.split(config)
    run.check(jax.device_count())
    if _NO_DATA.value and not _DRY_RUN.value:
        raise ConfigError("--no-data is for --dry-run: add that, or the data set.")
    if _NO_DATA.value:
        task = _create_task(run, rest, with_data=False)
        announce(describe_run(task, run, with_data=False))
        return {}
    if _DRY_RUN.value:
        with scratch.without_writing(rest) as (rest, note):
            task = _create_task(run, rest)
            announce(describe_run(task, run, note))
        return {}
    if _EVAL_ONLY.value:
        weights = open_weights(
            parse_weights(_WEIGHTS.value, "--weights"),
            model=rest.get("model", {}).get("name"),
        )
        names = weights.description.get("class_names")
        task = _create_task(run, rest, scored=names if isinstance(names, list) else ())
        folder = parse_path(_WORKDIR.value, "--workdir") if _WORKDIR.value else None
        return evaluation.score(task, weights, folder)
    return fit(
        config,
        parse_path(_WORKDIR.value, "--workdir"),
        profiled=profiled,
        change_config=_CHANGE_CONFIG.value,
        skip_damaged=_SKIP_DAMAGED.value,
    )


def _keep_compiled_programs() -> None:
    """Enables the cache of compiled programs, unless this start must write nothing."""
    if _NO_CACHE.value or _DRY_RUN.value:
        return
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # On CPUs, JAX's keys differ between processes and only process 0 writes: it
        # would find its program at the next start, and give up waiting for the others.
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if _CACHE.value:
        enable_compilation_cache(parse_path(_CACHE.value, "--compilation-cache"))
        return
    try:
        enable_compilation_cache()
    except ConfigError as error:
        # The cache is the default: a read-only home directory must not stop a run.
        announce(str(error))


def _create_task(
    run: RunSettings,
    rest: Mapping[str, Any],
    *,
    with_data: bool = True,
    scored: Sequence[str] | None = None,
) -> Task:
    return tasks.create_task(
        run.task,
        rest,
        batch_size=run.batch_size,
        seed=run.seed,
        with_data=with_data,
        scored=scored,
    )


def _announce_recipe() -> None:
    """Says so if the recipe is the package's."""
    given = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if (found := find_recipe(given)) != given:
        announce(f"There is no {given} here; the recipe is the package's, {found}.")


def _parse_flags(arguments: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
        check_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        return rest
    except AttributeError as error:
        # What ml_collections raises for a setting that the recipe does not have.
        reason = str(error).replace("\\n", " ").replace("\\'", "'")
        sys.exit(f"{program_name()}: --config has no such setting: {reason}")
    except (flags.Error, ConfigError) as error:
        sys.exit(f"{program_name()}: {str(error).strip().splitlines()[-1].strip()}")


def run_command() -> None:
    """Runs the command line, as `litv2-train` and `train.py` do."""
    # `--help` shows the docstring and the flags of the main module alone.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.get_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run_command()
