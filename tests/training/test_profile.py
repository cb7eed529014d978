import gzip
import json

import pytest

from litv2_jax.settings import ConfigError
from litv2_jax.training.loop import fit
from litv2_jax.training.profile import StepRange
from tests.training.toy import Toy, toy_run


@pytest.mark.parametrize(
    "text", ["5", "5:", ":5", "a:b", "7:5", "0:5", "-1:2", "1:2:3"]
)
def test_what_is_not_a_range_is_refused(text):
    with pytest.raises(ConfigError, match="--profile is .* it must be START:STOP"):
        StepRange.parse(text)


def test_steps_that_the_run_does_not_take_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--profile is 10:13, but this start takes"):
        fit(Toy(), toy_run(), tmp_path, profiled=StepRange(10, 13))
    assert not (tmp_path / "metrics.jsonl").exists()
    StepRange(5, 12).check(4, 12)
    with pytest.raises(ConfigError, match="takes steps 6 to 12: name some"):
        StepRange(5, 12).check(5, 12)


@pytest.mark.parametrize("last", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_the_steps_are_traced_for_tensorboard_and_perfetto(tmp_path, last):
    fit(Toy(), toy_run(), tmp_path, profiled=StepRange(3, last))
    (folder,) = (tmp_path / "tensorboard" / "plugins" / "profile").iterdir()
    assert any(path.name.endswith(".xplane.pb") for path in folder.iterdir())
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    assert any("jit_step" in name or "PjitFunction(step)" in name for name in names)
