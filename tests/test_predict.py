import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from litv2_jax import inference, predict, pretrained
from litv2_jax.checkpoints import save_weights
from litv2_jax.models.state import split_state
from litv2_jax.weights import open_weights
from tests.reference import rules

SIZES = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (3, 6, 12, 24)}


def write_weights(path: Path, names, num_classes: int) -> Path:
    sizes = {"name": "litv2_s", "num_classes": num_classes, **SIZES}
    model = litv2_jax.create_model(**sizes, rngs=nnx.Rngs(0))
    # Without training, one class would get every image.
    bias = 3 * np.random.default_rng(0).standard_normal(num_classes)
    model.head.bias[...] = bias.astype(np.float32)
    description = {
        "model": sizes,
        "input": {"image_size": 64, "crop": 0.875},
        "class_names": names,
    }
    save_weights(path, *split_state(model), description)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    return write_weights(directory / "w", ["cat", "dog", "fish"], 3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The sample photographs of scikit-learn, in several formats."""
    from sklearn import datasets

    directory = tmp_path_factory.mktemp("photos")
    china, flower = datasets.load_sample_images().images
    paths = [directory / name for name in ("a.jpg", "b.png", "c.webp", "d.gif")]
    for path in paths:
        Image.fromarray(china if path.suffix == ".jpg" else flower).save(path)
    return paths


def run(capsys, *arguments) -> str:
    predict.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_prints_the_best_classes_of_each_image(capsys, weights, photos):
    output = run(capsys, "--weights", weights, *photos)
    for path in photos:
        assert f"{path}\n" in output
    for name in ("cat", "dog", "fish"):
        assert output.count(name) == len(photos)
    shares = [float(s.split("%")[0]) for s in output.splitlines() if "%" in s]
    for row in np.reshape(shares, (-1, 3)):
        assert list(row) == sorted(row, reverse=True)
        assert abs(row.sum() - 100) < 0.05


def test_top_limits_the_classes(capsys, weights, photos):
    output = run(capsys, "--weights", weights, "--top", 1, photos[0])
    assert output.count("%") == 1


def test_probabilities_are_those_of_the_model(weights, photos):
    image = predict.read_image(photos[0])
    names, probabilities = predict.predict(weights, [image] * 18)

    model = litv2_jax.create_model(
        "litv2_s", rngs=nnx.Rngs(0), num_classes=3, weights=weights, **SIZES
    )
    # Resize to 64 / 0.875 = 73, then the middle 64.
    short = image.resize((int(73 * 640 / 427), 73), Image.Resampling.BICUBIC)
    left = round((short.width - 64) / 2)
    pixels = np.asarray(short)[round(9 / 2) :][:64, left : left + 64]
    normal = rules.normalize_image(pixels).transpose(1, 2, 0)[None]
    expected = jax.jit(lambda model, x: jax.nn.softmax(model(x)))(model, normal)
    assert names == ["cat", "dog", "fish"]
    np.testing.assert_allclose(
        probabilities, np.repeat(expected, 18, axis=0), rtol=1e-4
    )


def test_draws_the_images(capsys, weights, photos, tmp_path):
    picture = tmp_path / "grid.png"
    output = run(capsys, "--weights", weights, "--picture", picture, *photos)
    assert f"Drew {picture}" in output
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    # Four images in a row, none of them blank.
    quarters = np.array_split(pixels, 4, axis=1)
    assert all(quarter.std() > 30 for quarter in quarters)


def test_classes_of_imagenet_have_their_names(capsys, tmp_path, photos):
    path = write_weights(tmp_path / "w", "imagenet", 1000)
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0), weights=path, **SIZES)
    best = int(np.argmax(model.head.bias[...]))
    output = run(capsys, "--weights", path, photos[0])
    names, _ = predict.predict(path, [predict.read_image(photos[0])])
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert names[best] in output
    assert len(set(names)) == 1000


def test_wordnet_numbers_of_tfds_become_names(capsys, tmp_path, photos):
    path = write_weights(tmp_path / "w", ["n01440764", "n02012849"], 2)
    output = run(capsys, "--weights", path, photos[0])
    assert "tench, Tinca tinca" in output
    assert "crane (bird)" in output


def test_classes_without_names_are_numbered(capsys, tmp_path, photos):
    output = run(capsys, "--weights", write_weights(tmp_path / "w", [], 2), photos[0])
    assert "class 0" in output
    assert "class 1" in output


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_all_kinds_of_images_are_read(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (30, 20)).save(path)
    assert predict.read_image(path).mode == "RGB"


def test_sixteen_bits_of_grey_are_not_white(tmp_path):
    levels = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png")
    pixels = np.asarray(predict.read_image(tmp_path / "x.png"))
    np.testing.assert_array_equal(pixels[..., 0], levels >> 8)


def test_images_are_turned_upright_if_those_of_the_training_were(
    weights, tmp_path, monkeypatch
):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # Taken with the camera on its side.
    path = tmp_path / "x.jpg"
    image.save(path, exif=exif)
    assert predict.read_image(path).size == (30, 20)
    assert predict.read_image(path, "applied").size == (20, 30)
    # The command does as the checkpoint says.
    sizes = []
    crop = inference.center_crop
    monkeypatch.setattr(
        inference, "center_crop", lambda *a: sizes.append(a[0].size) or crop(*a)
    )
    opened = open_weights(weights)
    description = opened.description
    for setting, size in (
        ({}, (30, 20)),
        ({"exif": "ignored"}, (30, 20)),
        ({"exif": "applied"}, (20, 30)),
    ):
        stored = {**description, "input": {**description["input"], **setting}}
        changed = dataclasses.replace(opened, description=stored)
        monkeypatch.setattr(pretrained, "open_weights", lambda _, w=changed: w)
        predict.main(["--weights", str(weights), str(path)])
        assert sizes.pop() == size


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()[:1500]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image at all", "bad.jpg is not an image that can be read"),
        (b"", "bad.jpg is not an image that can be read"),
        (truncated_jpeg(), "bad.jpg is not an image that can be read: OSError: image"),
        (None, "There is no file .*bad.jpg"),
    ],
    ids=["text", "empty", "truncated", "missing"],
)
def test_what_is_no_image_is_named(tmp_path, weights, data, message):
    path = tmp_path / "bad.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SystemExit, match=message):
        predict.main(["--weights", str(weights), str(path)])


def test_images_that_cannot_be_read_are_named_and_the_others_done(
    weights, photos, tmp_path, capsys
):
    (tmp_path / "torn.jpg").write_bytes(truncated_jpeg())
    (tmp_path / "folder.jpg").mkdir()
    paths = [photos[0], tmp_path / "torn.jpg", tmp_path / "folder.jpg", photos[1]]
    picture = tmp_path / "grid.png"
    arguments = ["--weights", weights, "--picture", picture, *paths]
    with pytest.raises(SystemExit, match="not done: .*torn.jpg .* \\(and 1 more\\)"):
        predict.main([str(argument) for argument in arguments])
    output, errors = capsys.readouterr()
    assert output.count("fish") == 2
    assert f"{photos[1]}\n" in output
    assert errors.count("torn.jpg is not an image that can be read") == 1
    assert "There is no file" in errors
    assert Image.open(picture).width > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "-1"], "--top is -1 but must be 1 or more"),
        (["--top", "0"], "--top is 0 but must be 1 or more"),
        (["--picture", "."], "--picture is ., which is a folder; name a .png file"),
        (["--picture", "x"], "--picture is x, which is no PNG file; name a .png"),
        (["--picture", "x.exe"], "--picture is x.exe, which is no PNG file"),
        (["--picture", "nowhere/x.png"], "but there is no folder nowhere; make it"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(arguments, message, photos):
    # Before the weights, which are not there.
    command = ["--weights", "nowhere", *arguments, str(photos[0])]
    with pytest.raises(SystemExit, match=message):
        predict.main(command)


def test_an_image_that_cannot_be_drawn_does_not_end_the_command(
    weights, photos, tmp_path, capsys, caplog, monkeypatch
):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(predict, "draw_grid", fail)
    picture = tmp_path / "grid.png"
    arguments = ["--weights", weights, "--picture", picture, photos[0]]
    with pytest.raises(SystemExit, match="not done: .*grid.png could not be drawn"):
        predict.main([str(argument) for argument in arguments])
    assert "fish" in capsys.readouterr().out
    assert "grid.png could not be drawn: RuntimeError: no font" in caplog.text


def test_missing_weights_are_named(tmp_path, photos):
    with pytest.raises(SystemExit, match="There is no .*absent: name"):
        predict.main(["--weights", str(tmp_path / "absent"), str(photos[0])])


@pytest.mark.slow
def test_runs_as_a_module_and_prints_any_name(tmp_path, photos):
    weights = write_weights(tmp_path / "w", ["\u732b", "fi\nsh", "\udce9"], 3)
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    shutil.copy(photos[0], path)
    result = subprocess.run(
        [sys.executable, "-m", "litv2_jax.predict", "--weights", str(weights), path],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    for text in (rb"\u732b", rb"fi\nsh", rb"\udce9", rb"caf\udce9.jpg"):
        assert text in result.stdout
