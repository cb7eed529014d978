"""Fine-tuning a folder of images, from weights of other classes."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from configs import demo
from litv2_jax import tasks
from litv2_jax.checkpoints.arrays import StoredArrays
from litv2_jax.layer_groups import layer_groups
from litv2_jax.settings import ConfigError
from litv2_jax.training.devices import Devices
from litv2_jax.training.loop import fit
from litv2_jax.training.run_settings import RunSettings
from tests.weights.places import difference

SIZES = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}


def draw(folder):
    """Writes 12 noisy images of each of two colors, in a folder for each."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("blue", "red")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * k] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def recipe(folder, weights, **changes):
    config = demo.get_config("finetune")
    config.data.data_dir, config.data.eval_fraction = str(folder), 0.25
    config.data.image_size, config.weights = 32, str(weights)
    config.model.sizes.update(SIZES)
    config.optimizer.groups = layer_groups(SIZES["depths"], 0.75)
    config.epochs, config.batch_size, config.eval_every_epochs = 4.0, 8, 4.0
    config.optimizer.base_batch_size = 8
    config.update_from_flattened_dict(changes)
    return config.to_dict()


def start(config, workdir):
    run, rest = RunSettings.split(config)
    task = tasks.create_task(run.task, rest, batch_size=run.batch_size, seed=run.seed)
    return fit(task, run, workdir, Devices(jax.devices()[:1]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images, and weights of five other classes."""
    place = tmp_path_factory.mktemp("finetune")
    draw(place / "images")
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(3), num_classes=5, **SIZES)
    litv2_jax.save_pretrained(model, place / "hub", class_names=list("abcde"))
    return place


def test_a_folder_of_images_is_learned_from_other_weights(place, capsys):
    workdir = place / "run"
    results = start(recipe(place / "images", place / "hub"), workdir)

    said = capsys.readouterr().out
    assert "The head (head/bias, head/kernel) is new: for 2 classes instead" in said
    assert results["top1"] == 1
    assert 1 <= results["num_images"] < 12
    predictor = litv2_jax.Predictor.load(workdir)
    assert predictor.class_names == ["blue", "red"]
    # What is served is the average, and layers near the images have moved less.
    path = workdir / "checkpoints" / "8"
    arrays = StoredArrays.open(path, ["model", "trained"]).read()
    kernel = "params/backbone/stages/{}/blocks/0/mlp/expand/kernel"
    assert not np.array_equal(
        arrays["model/params/head/kernel"], arrays["trained/params/head/kernel"]
    )
    before = litv2_jax.create_model(
        "litv2_s", rngs=nnx.Rngs(0), num_classes=5, weights=place / "hub", **SIZES
    )
    moved = [
        np.abs(
            arrays[f"trained/{kernel.format(stage)}"]
            - before.backbone.stages[stage].blocks[0].mlp.expand.kernel[...]
        ).max()
        for stage in (0, 3)
    ]
    assert 0 < moved[0] < 0.5 * moved[1]
    # It can be passed on as a folder.
    predictor.save_pretrained(place / "again")
    again = litv2_jax.Predictor.load(place / "again")
    assert again.class_names == ["blue", "red"]
    options = {"rngs": nnx.Rngs(0), "num_classes": 2, **SIZES}
    models = [
        litv2_jax.create_model("litv2_s", weights=weights, **options)
        for weights in (workdir, place / "again")
    ]
    assert not difference(*models)


def test_a_kept_head_of_other_classes_is_an_error(place, tmp_path):
    config = recipe(place / "images", place / "hub", weights_head="keep")
    with pytest.raises(ConfigError, match="has a head for 5 classes, the model one"):
        start(config, tmp_path / "run")


def test_sets_smaller_than_a_batch_are_told_which_one_to_use(place, tmp_path):
    config = recipe(place / "images", place / "hub", batch_size=64)
    with pytest.raises(ConfigError, match=r"more than the (\d+) .* are: use \1 or few"):
        start(config, tmp_path / "run")
