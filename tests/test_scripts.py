"""The launch examples run, up to a train.py whose place a recorder takes."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
MODELS = ("litv2_s", "litv2_m", "litv2_b")
# What a script needs before the name of the model.
FIRST = {"two_nodes": ["host0", "1"]}

RECORDER = f"""#!{sys.executable}
import json, os, sys
values = {{"arguments": sys.argv[1:], "ids": os.environ.get("JAX_LOCAL_DEVICE_IDS")}}
json.dump(values, open(os.environ["RECORD"], "w"))
"""
# Runs the command behind its own options.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""

every_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def run(path, arguments, directory, **environment):
    """Returns what train.py would have been started with."""
    for name, code in (("python", RECORDER), ("srun", SRUN)):
        (directory / name).write_text(code)
        (directory / name).chmod(0o755)
    record = directory / "record.json"
    variables = {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "RECORD": str(record),
        "SLURM_SUBMIT_DIR": str(ROOT),
        **environment,
    }
    subprocess.run([path, *arguments], env=variables, check=True, cwd=directory)
    return json.loads(record.read_text())


def parse(arguments):
    """Returns the options of a command line, `--a b` and `--a=b` alike."""
    options, rest = {}, list(arguments)
    while rest:
        name, is_joined, value = rest.pop(0).partition("=")
        assert name.startswith("--"), f"{name} follows no option"
        options[name.removeprefix("--")] = value if is_joined else rest.pop(0)
    return options


def test_there_are_scripts():
    names = {path.stem for path in SCRIPTS}
    assert names == {"one_node", "slurm", "slurm_gpu_tasks", "two_nodes"}


@every_script
def test_bash_parses_it_and_stops_at_errors(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(path, os.X_OK)


@every_script
@pytest.mark.parametrize("model", MODELS)
def test_it_names_flags_and_recipes_that_exist(path, model, tmp_path):
    arguments = [*FIRST.get(path.stem, []), model, "--config.seed=7"]
    found = run(path, arguments, tmp_path)["arguments"]
    assert found.pop(0) == "train.py"
    options = parse(found)

    source = (ROOT / "litv2_jax" / "train.py").read_text()
    flags = re.findall(r'DEFINE_\w+\(\s*"([\w-]+)"', source)
    names = {name for name in options if not name.startswith("config.")}
    assert {"config", "workdir"} <= names <= set(flags)

    recipe, argument = options["config"].split(":")
    assert argument == model
    module = importlib.import_module(recipe.removesuffix(".py").replace("/", "."))
    config = module.get_config(argument)
    assert options["config.seed"] == "7"
    for name in options.keys() - names:
        value = config
        for key in name.split(".")[1:]:
            value = value[key]
        assert isinstance(value, int | str)


def test_two_nodes_says_who_is_who(tmp_path):
    path = ROOT / "scripts" / "two_nodes.sh"
    options = parse(run(path, ["host0", "1"], tmp_path)["arguments"][1:])
    assert options["coordinator"] == "host0:9000"
    assert (options["num-processes"], options["process-id"]) == ("2", "1")
    broken = subprocess.run([path, "host0"], capture_output=True, text=True)
    assert broken.returncode != 0
    assert "number of this machine: 0 or 1" in broken.stderr


def test_slurm_gives_each_process_every_gpu_and_core_of_its_machine(tmp_path):
    path = ROOT / "scripts" / "slurm.sh"
    allocation = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"}
    found = run(path, ["litv2_b"], tmp_path, **allocation)
    # Left to `training.devices`, which gives a lone process all GPUs of its host.
    assert found["ids"] is None
    assert parse(found["arguments"][1:])["config.data.num_workers"] == "30"


def test_slurm_may_give_each_process_one_gpu(tmp_path):
    path = ROOT / "scripts" / "slurm_gpu_tasks.sh"
    allocation = {"SLURM_CPUS_PER_TASK": "8"}
    found = run(path, ["litv2_b"], tmp_path, **allocation)
    # Left to JAX, which takes the GPU of the task's number if it sees all of them.
    assert found["ids"] is None
    lines = path.read_text().splitlines()
    options = " ".join(line for line in lines if line.startswith("#SBATCH"))
    assert "--ntasks-per-node=8 #SBATCH --gpus-per-node=8" in options
    assert "gpus-per-task" not in options
    assert parse(found["arguments"][1:])["config.data.num_workers"] == "7"
