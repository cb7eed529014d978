"""Which files a prediction is of, and the files that it writes."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from litv2_jax import predict
from litv2_jax.prediction_files import Predictions, find_images, write_class_map
from tests.test_predict import write_weights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/b/2.JPG", "a/.hidden.png", "3.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "a/notes.txt").write_text("none")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_folders_patterns_and_lists_stand_for_their_images(folder):
    def names(*arguments, lines=()):
        return [str(x.relative_to(folder)) for x in find_images(arguments, lines)]

    assert names(str(folder / "a")) == ["a/1.png", "a/b/2.JPG"]
    assert names(str(folder / "*.png")) == ["3.png"]
    assert names(str(folder / "**/*.JPG")) == ["a/b/2.JPG"]
    lines = io.StringIO(f"{folder}/3.png\n\n{folder}/a\r\n")
    assert names("-", lines=lines) == ["3.png", "a/1.png", "a/b/2.JPG"]
    # A file is what it is called, even if that looks like a pattern.
    (folder / "[x].png").write_bytes((folder / "3.png").read_bytes())
    assert names(str(folder / "[x].png")) == ["[x].png"]
    # Who reads them says that they are no files, and goes on.
    for name in ("absent.png", "empty", "*.gif"):
        assert names(str(folder / name)) == [name]


def test_predictions_are_written_as_csv_and_json(folder, capsys):
    weights = write_weights(folder / "w", ["cat", "dog, big", "\u732b"], 3)
    command = ["--weights", str(weights), "--top", "2", str(folder / "a"), "absent.png"]
    for name in ("out.csv", "out.json"):
        with pytest.raises(SystemExit, match="not done: There is no file absent.png"):
            predict.main([*command, "--output", name])
        assert f"Wrote {name}" in capsys.readouterr().out
    found = json.loads((folder / "out.json").read_text())
    assert [x["image"] for x in found] == [f"{folder}/a/1.png", f"{folder}/a/b/2.JPG"]
    best, second = found[0]["predictions"]
    assert 1 >= best["probability"] > second["probability"] > 0
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0]["class"] == best["class"]
    assert float(rows[1]["probability"]) == pytest.approx(second["probability"])


def test_objects_have_columns_for_their_boxes(tmp_path):
    predictions = Predictions()
    predictions.add(tmp_path / "none.png", [])
    predictions.add(tmp_path / "a.png", [{"class": "cat", "score": 0.5, "x_min": 3.0}])
    predictions.write(tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines == ["image,class,score,x_min", f"{tmp_path}/a.png,cat,0.5,3.0"]


@pytest.mark.parametrize("count", [3, 256, 300])
def test_maps_of_classes_are_read_as_numbers(tmp_path, count):
    classes = np.arange(12, dtype=np.int32).reshape(3, 4) % count
    classes[0, 0] = count - 1
    write_class_map(classes, count, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.txt"], "--output is x.txt but must end in .csv or .json"),
        (["--output", "nowhere/x.csv"], "there is no folder nowhere; make it"),
        (["--masks", "3.png"], "--masks is 3.png, which is no folder"),
    ],
)
def test_impossible_outputs_are_refused_at_once(folder, arguments, message):
    with pytest.raises(SystemExit, match=message):
        predict.main(["--weights", "absent", "3.png", *arguments])


def test_masks_are_for_segmentation(folder):
    weights = write_weights(folder / "w", ["cat", "dog", "fish"], 3)
    with pytest.raises(SystemExit, match="w is for classification"):
        predict.main(["--weights", str(weights), "--masks", "out", "3.png"])
    assert not (folder / "out").exists()
