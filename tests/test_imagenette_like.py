"""Photographs as JPEG files of ImageNet's sizes, trained on as ImageNet would be."""

import json

import numpy as np
import pytest

from configs import imagenette
from litv2_jax.training.loop import fit
from tests.data import photos
from tests.test_processes import start, wait_for
from tests.test_resume import create
from tests.training.test_loop import read_rows

RECIPE = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads('''{}'''))
"""


def tiny_recipe(data_dir) -> dict:
    """Three epochs of six updates; everything that ImageNet's recipe draws is drawn."""
    config = imagenette.get_config()
    config.epochs, config.eval_every_epochs = 3.0, 3.0
    config.batch_size, config.log_every_steps = 16, 1
    config.checkpoint_every_steps = 4
    config.model.dtype = "float32"
    config.model.sizes.embed_dim = 8
    config.model.sizes.depths = (1, 1, 1, 1)
    config.model.sizes.num_heads = (1, 1, 2, 4)
    config.data.name, config.data.data_dir = "photos", str(data_dir)
    config.data.image_size = 64
    config.data.num_workers = 0
    config.optimizer.warmup_epochs = 1.0
    return config.to_dict()


@pytest.mark.slow
def test_a_run_killed_on_eight_devices_goes_on_with_four(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    photos.prepare(tmp_path / "data")
    config = tiny_recipe(tmp_path / "data")
    run, task = create(config)
    fit(task, run, tmp_path / "whole")

    workdir, recipe = tmp_path / "parts", tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(json.dumps(config)))
    arguments = [f"--config={recipe}", f"--workdir={workdir}"]
    process = start(arguments, 8)
    wait_for(lambda: (workdir / "checkpoints" / "4").exists(), [process])
    process.kill()
    process.communicate()

    # With images from another process, too.
    arguments += ["--config.data.num_workers=1", "--change-config"]
    process = start(arguments, 4)
    output, _ = process.communicate(timeout=500)

    assert process.returncode == 0, output
    assert "Found a checkpoint of step" in output
    whole, parts = (
        [row["loss"] for row in read_rows(path, "train")]
        for path in (tmp_path / "whole", workdir)
    )
    assert len(whole) == 18
    np.testing.assert_allclose(parts, whole, rtol=1e-3)
    for name in ("augmented", "predictions", "curves"):
        assert (workdir / f"report/{name}.png").stat().st_size > 10_000
