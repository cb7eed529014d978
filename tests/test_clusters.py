"""The files for containers and clusters name what exists; nothing starts them here."""

import fnmatch
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def read_steps(name):
    """Returns what follows an instruction of the Dockerfile, wherever it is."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def read_flags():
    source = (ROOT / "litv2_jax" / "train.py").read_text()
    return set(re.findall(r'DEFINE_\w+\(\s*"([\w-]+)"', source))


def check_command(words):
    """Asserts that the flags, settings and recipe of a `litv2-train` exist."""
    options, rest = {}, list(words)
    while rest:
        name, is_joined, value = rest.pop(0).partition("=")
        assert name.startswith("--"), f"{name} follows no option"
        options[name.removeprefix("--")] = value if is_joined else rest.pop(0)
    settings = {name for name in options if name.startswith("config.")}
    assert options.keys() - settings <= read_flags()
    path, argument = options["config"].split(":")
    recipe = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    value = recipe.get_config(argument)
    for name in settings:
        *sections, last = name.removeprefix("config.").split(".")
        section = value
        for key in sections:
            section = section[key]
        assert last in section
    return options


def test_the_image_has_what_it_copies_and_installs_extras_that_exist():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [word for step in read_steps("COPY") for word in step.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)
    # What the build reads: see pyproject.toml.
    assert {"configs", "litv2_jax", "LICENSE", "LICENSES", "README.md"} < set(copied)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert fnmatch.fnmatch(read_steps("FROM")[0], "nvidia/cuda:12.*-base-ubuntu24.04")
    assert read_steps("USER") == ["litv2"]


@pytest.fixture
def jobset():
    return yaml.safe_load((ROOT / "scripts" / "jobset.yaml").read_text())


def test_the_jobset_starts_as_many_processes_as_it_says(jobset):
    spec = jobset["spec"]
    [workers] = spec["replicatedJobs"]
    job = workers["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    lines = container["args"][0].replace("\\\n", " ").splitlines()
    command, *words = shlex.split(lines[-1].removeprefix("exec "))
    assert command == "litv2-train"
    options = check_command(words)

    assert job["completions"] == job["parallelism"] == int(options["num-processes"])
    assert job["completionMode"] == "Indexed"
    assert options["process-id"] == "$JOB_COMPLETION_INDEX"
    # JobSet's name of the first pod.
    name, subdomain = jobset["metadata"]["name"], spec["network"]["subdomain"]
    assert environment["COORDINATOR"] == f"{name}-{workers['name']}-0-0.{subdomain}"
    assert options["coordinator"] == "$COORDINATOR:9000"


def test_the_jobset_has_shared_memory_and_mounts_its_volumes(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    [shared] = [name for name, path in mounts.items() if path == "/dev/shm"]
    assert volumes[shared]["emptyDir"]["medium"] == "Memory"
    user = re.search(r"--uid (\d+)", DOCKERFILE)
    assert user
    assert pod["securityContext"]["fsGroup"] == int(user[1])


def test_variables_about_memory_are_those_that_jax_reads():
    page = (ROOT / "docs" / "clusters.md").read_text()
    names = set(re.findall(r"XLA_\w+", page))
    assert len(names) == 3
    spec = importlib.util.find_spec("jaxlib.xla_client")
    assert spec
    assert spec.origin
    source = Path(spec.origin).read_text()
    for name in names:
        assert f"'{name}'" in source, name
