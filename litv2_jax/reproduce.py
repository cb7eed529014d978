"""Scores the published weights, and writes the scores beside the published ones.

python -m litv2_jax.reproduce imagenet --data-dir DIR
python -m litv2_jax.reproduce ade20k --data-dir ADEChallengeData2016
python -m litv2_jax.reproduce coco --data-dir DIR --models retinanet_litv2_s

Each model is fetched, converted in memory, and scored as by `train.py --eval-only`. The
page is written after each model; started again, the command scores what is missing.
"""

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from litv2_jax import tasks
from litv2_jax.compiler import enable_compilation_cache
from litv2_jax.paths import expand_path
from litv2_jax.published_tables import TABLES, EvalOptions, PublishedTable, configure
from litv2_jax.score_page import ScorePage
from litv2_jax.settings import DTYPES, ConfigError
from litv2_jax.tasks.task_data import find_sizes
from litv2_jax.text import allow_any_text
from litv2_jax.training import evaluation
from litv2_jax.training.limits import explain_limit
from litv2_jax.training.log import announce
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.task import Task
from litv2_jax.weights import open_weights
from litv2_jax.weights.cache import fetch, find_cached, find_digest
from litv2_jax.weights.published import TITLES, PublishedFile


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits with status 1 if not every model was scored."""
    options = _parse(arguments)
    allow_any_text()
    try:
        failures = reproduce(
            TABLES[options.table],
            EvalOptions(
                options.data_dir,
                options.split,
                options.batch_size,
                options.num_workers,
                options.dtype,
            ),
            options.output or expand_path(f"reproduced-{options.table}.md"),
            models=options.models,
            again=options.again,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.reproduce: {error}")
    except Exception as error:
        if reason := explain_limit(error):
            sys.exit(f"litv2_jax.reproduce: {reason}")
        raise
    if failures:
        sys.exit(f"litv2_jax.reproduce: not scored: {', '.join(failures)}.")


def reproduce(
    table: PublishedTable,
    options: EvalOptions,
    output: Path,
    *,
    models: Sequence[str] = (),
    again: bool = False,
) -> list[str]:
    """Scores the models that have no score yet, and writes the page after each.

    Args:
        table: What to reproduce.
        options: How.
        output: Markdown file to write; the numbers are in a `.json` beside it, too.
        models: Names of published models; all of the table by default.
        again: Whether to score models again that are on the page.

    Returns:
        The names of the models that could not be scored, after why was printed.

    Raises:
        ConfigError: If there is no such model, or no such data.
    """
    files = table.choose_files(models)
    _, num_images, _ = find_sizes(table.dataset)
    page = ScorePage(output, table.title, num_images)
    # Without data, nothing is downloaded.
    _create_task(configure(table, files[0].model, options))
    _keep_compiled_programs()
    failures = []
    for file in files:
        config = configure(table, file.model, options)
        if not again and _is_scored(page, file, config):
            announce(f"{file.model} is in {page.path}; --again scores it again.")
            continue
        try:
            page.add(file.name, _score(file, config))
            announce(f"Wrote {page.path}.")
        except (ValueError, OSError) as error:
            announce(f"{file.model}: {error}")
            failures.append(file.model)
        # Each model has its programs.
        jax.clear_caches()
    return failures


def _is_scored(page: ScorePage, file: PublishedFile, config: Mapping[str, Any]) -> bool:
    """Returns whether the page has the score of this file under these conditions."""
    row, path = page.find(file.name), find_cached(file)
    if not row or row["conditions"] != _describe_conditions(config):
        return False
    return path is None or find_digest(path) == row["sha256"]


def _score(file: PublishedFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a model, for the page."""
    start = time.perf_counter()
    weights = open_weights(f"published:{file.name}")
    results = evaluation.score(_create_task(config), weights)
    scores = {name: results[name] for name in TITLES if name in results}
    shown = ", ".join(f"{TITLES[name]} {100 * x:.2f} %" for name, x in scores.items())
    announce(f"{file.model}: {shown}")
    return {
        "scores": scores,
        "num_images": int(results["num_images"]),
        "sha256": find_digest(fetch(file)),
        "conditions": _describe_conditions(config),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _create_task(config: Mapping[str, Any]) -> Task:
    run, rest = RunSettings.split(config)
    run.check(jax.device_count())
    return tasks.create_task(
        run.task, rest, batch_size=run.batch_size, seed=run.seed, scored=()
    )


def _describe_conditions(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the scores may depend on beside the file, for JSON."""
    data = config["data"]
    return {
        "litv2_jax": importlib.metadata.version("litv2_jax"),
        "jax": jax.__version__,
        "on": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "in": config["model"]["dtype"],
        "data": data["data_dir"],
        "split": data["eval_split"],
    }


def _keep_compiled_programs() -> None:
    try:
        enable_compilation_cache()
    except ConfigError as error:
        # It only saves time.
        announce(str(error))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="litv2_jax.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("table", choices=TABLES)
    add(
        "--data-dir",
        type=expand_path,
        required=True,
        metavar="DIR",
        help="folder of the data set in TFDS's format, or a tree of files",
    )
    add("--models", nargs="+", default=[], metavar="NAME", help="all by default")
    add(
        "--output",
        type=expand_path,
        metavar="FILE",
        help="Markdown file to write, reproduced-TABLE.md by default",
    )
    add("--split", default="", help="evaluation split, the published one by default")
    add("--batch-size", type=int, default=0, metavar="N", help="over all devices")
    add("--num-workers", type=int, metavar="N", help="processes that load images")
    add("--dtype", choices=DTYPES, default=DTYPES[0])
    add("--again", action="store_true", help="score models again that are on the page")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
