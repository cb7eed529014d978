import weakref

import numpy as np
import pytest
from PIL import Image

import litv2_jax
from litv2_jax import inference
from litv2_jax.settings import ConfigError
from tests.test_predict import write_weights


def test_a_predictor_takes_files_images_and_arrays(tmp_path):
    weights = write_weights(tmp_path / "w", ["cat", "dog", "fish"], 3)
    predictor = litv2_jax.Predictor.load(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    image, photo = Image.fromarray(pixels), tmp_path / "photo.png"
    image.save(photo)
    rows = list(predictor.classify([photo, str(photo), image, pixels]))
    assert np.shape(rows) == (4, 3)
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])
    with pytest.raises(ConfigError, match="holds a classifier: use predict or Pred"):
        predictor.segment(image)
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="is not an image: give uint8 of shape"):
            list(predictor.classify([wrong]))
    with pytest.raises(FileNotFoundError, match="absent"):
        list(predictor.classify(["absent.png"]))


def test_a_predictor_computes_in_bfloat16(tmp_path):
    weights = write_weights(tmp_path / "w", ["cat", "dog", "fish"], 3)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    exact, rounded = (
        next(litv2_jax.Predictor.load(weights, dtype=dtype).classify([pixels]))
        for dtype in ("float32", "bfloat16")
    )
    assert exact.dtype == rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.02
    with pytest.raises(ConfigError, match="dtype is 'int8'; use float32 or bfloat16"):
        litv2_jax.Predictor(weights, dtype="int8")


def test_one_image_after_the_other_is_held_in_memory(tmp_path):
    """Read when they are needed, and dropped: 20 photographs take what one takes."""
    weights = write_weights(tmp_path / "w", ["cat", "dog", "fish"], 3)
    references = []
    most = 0

    def images():
        nonlocal most
        for _ in range(20):
            image = Image.new("RGB", (64, 64))
            references.append(weakref.ref(image))
            most = max(most, sum(each() is not None for each in references))
            yield image
            del image

    names, probabilities = inference.predict(weights, images())
    assert (len(names), probabilities.shape) == (3, (20, 3))
    assert most <= 3
