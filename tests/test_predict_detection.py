"""Objects in any picture, from Python and from the command line."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from litv2_jax import predict
from litv2_jax.checkpoints import save_weights
from litv2_jax.models.state import split_state
from litv2_jax.settings import ConfigError
from tests.models.test_mask_rcnn import SMALL

SIZES = {"name": "mask_rcnn_litv2_s", **SMALL, "num_classes": 3}
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model that was not trained, and finds all classes everywhere."""
    path = tmp_path_factory.mktemp("weights") / "mask"
    model = litv2_jax.create_model(**SIZES, rngs=nnx.Rngs(0))
    description = {
        "model": SIZES,
        "input": {"scale": (64, 64), "multiple": 32},
        "class_names": NAMES,
    }
    save_weights(path, *split_state(model), description)
    return path


@pytest.fixture(scope="module")
def predictor(weights):
    return litv2_jax.Predictor(weights)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 110, 3), dtype=np.uint8)
    path = tmp_path / "zoo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_objects_are_in_the_pixels_of_the_picture(predictor, picture):
    found = predictor.detect(picture, threshold=0.0)
    assert 5 < len(found) <= 100
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert {each.name for each in found} <= set(NAMES)
    for each in found:
        x_min, y_min, x_max, y_max = each.box
        assert 0 <= x_min <= x_max <= 110
        assert 0 <= y_min <= y_max <= 80
        assert NAMES[each.label] == each.name
        assert each.mask.shape == (80, 110)
        rows, columns = np.nonzero(each.mask)
        if rows.size:
            assert x_min - 1 <= columns.min() <= columns.max() <= x_max + 1
            assert y_min - 1 <= rows.min() <= rows.max() <= y_max + 1
    # Resized to 47x64, they reach beyond that.
    assert max(each.box[2] for each in found) > 64

    middle = scores[len(scores) // 2]
    fewer = predictor.detect(np.asarray(Image.open(picture)), threshold=middle)
    assert [each.score for each in fewer] == [x for x in scores if x >= middle]


def test_what_cannot_be_done_is_said(predictor, picture):
    with pytest.raises(ValueError, match="threshold=1.5 must be within 0 and 1"):
        predictor.detect(picture, threshold=1.5)
    with pytest.raises(ConfigError, match="holds a detector: use Predictor.detect"):
        predictor.segment(picture)
    with pytest.raises(FileNotFoundError, match="There is no file .*none.png"):
        predictor.detect(picture.with_name("none.png"))


def test_the_command_prints_and_draws(weights, predictor, picture, tmp_path, capsys):
    best = predictor.detect(picture, threshold=0.0)[0]
    out = tmp_path / "out.png"
    threshold = str(best.score - 1e-4)
    arguments = ["--weights", weights, "--picture", out, "--threshold", threshold]
    predict.main([str(argument) for argument in [*arguments, picture]])
    output = capsys.readouterr().out
    box = ", ".join(f"{side:.0f}" for side in best.box)
    assert f"{best.score:7.2%}  {best.name}  ({box})" in output
    assert np.asarray(Image.open(out).convert("RGB")).std() > 20
    with pytest.raises(SystemExit, match="--threshold is 2.0 but must be within 0"):
        predict.main(["--weights", str(weights), "--threshold", "2", str(picture)])
