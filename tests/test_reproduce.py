"""Published weights are scored, and what was measured stands beside the paper's."""

import dataclasses
import re

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import litv2_jax
from configs import demo, demo_detection, imagenet
from litv2_jax import class_names
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.models.families import CLASSIFIER, RETINANET, SEMANTIC_FPN
from litv2_jax.published_tables import TABLES, EvalOptions, configure
from litv2_jax.reproduce import main, reproduce
from litv2_jax.score_page import ScorePage
from litv2_jax.settings import ConfigError
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.weights.cache import cache_folder
from litv2_jax.weights.published import PUBLISHED, PublishedFile
from tests.data.annotated import make_pair, write_tree
from tests.reference import fill
from tests.releases import NANO, releases

__all__ = ["releases"]
NAMES = "abcdefghij"


def find_recipe(model: str):
    """Of tests/golden/litv2_tiny_checkpoint.pth, whose settings say 64 pixels."""
    config = imagenet.get_config()
    config.model.name = model
    config.data.image_size, config.data.num_workers = 64, 0
    return config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder `val` with an image of each of ten classes, and three more."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i, name in enumerate([*NAMES, *"aab"]):
        colors = generator.integers(256, size=(9, 11, 3), dtype=np.uint8)
        path = root / "val" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors).resize((80, 70)).save(path)
    return root


TABLE = dataclasses.replace(TABLES["imagenet"], find_recipe=find_recipe)


def test_the_page_has_what_was_measured(releases, images, tmp_path, capsys):
    page, options = tmp_path / "page.md", EvalOptions(images)
    # The server does not have the first one, which does not stop the other.
    assert reproduce(TABLE, options, page, models=["litv2_m", "nano"]) == ["litv2_m"]
    assert "litv2_m: http://127.0.0.1:" in capsys.readouterr().out

    predictor = litv2_jax.Predictor.load("published:nano")
    paths = sorted((images / "val").glob("*/*.png"))
    guesses = [int(row.argmax()) for row in predictor.classify(paths)]
    labels = [NAMES.index(path.parent.name) for path in paths]
    accuracy = 100 * np.mean(np.equal(guesses, labels))
    assert accuracy not in (0, 100)
    (row,) = [x for x in page.read_text().splitlines() if x.startswith("| `")]
    assert row == (
        f"| `litv2_nano` | top-1 | 12.5 | {accuracy:.2f} | {accuracy - 12.5:+.2f} | "
        "13 of 50,000 | 1 |"
    )
    assert f"in float32, data {images}, split val\n" in page.read_text()

    def repeat(**options):
        """Returns whether the file, which is not weights, is opened again."""
        return reproduce(TABLE, EvalOptions(images), page, models=["nano"], **options)

    # Without the file, too.
    cached = cache_folder() / "nano.pth"
    for damage in (cached.unlink, lambda: cached.with_name("nano.pth.json").unlink()):
        damage()
        releases.requests.clear()
        assert repeat() == []
        assert "litv2_nano is in" in capsys.readouterr().out
        assert releases.requests == []
    releases.files.clear()
    assert repeat(again=True) == ["litv2_nano"]
    # Of another digest than the page's.
    cached.write_bytes(b"not weights")
    assert repeat() == ["litv2_nano"]
    cached.unlink()
    numbers = tmp_path / "page.json"
    numbers.write_text(numbers.read_text().replace("float32", "bfloat16"))
    assert repeat() == ["litv2_nano"]


def test_without_data_nothing_is_downloaded(releases, tmp_path):
    with pytest.raises(SystemExit, match="imagenet2012"):
        main(["imagenet", "--data-dir", str(tmp_path), "--models", "litv2_s"])
    assert releases.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "litv2_x"], "Did you mean published:litv2_"),
        (["--models", "litv2_s", "retinanet_litv2_s"], "is for detection, but the ta"),
        (["--output", "absent/page.md"], "there is no folder .*absent; make it"),
        (["--batch-size", "-8"], "config.batch_size is -8 but must be"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(["imagenet", "--data-dir", str(tmp_path), *arguments])


@pytest.mark.parametrize("name", TABLES)
def test_each_model_has_its_published_evaluation(name, tmp_path):
    table = TABLES[name]
    files = table.choose_files([])
    assert len(files) == {"imagenet": 11, "ade20k": 3, "coco": 12}[name]
    for file in files:
        config = configure(table, file.model, EvalOptions(tmp_path, dtype="bfloat16"))
        assert config["task"] == table.task == file.task
        model, data = config["model"], config["data"]
        assert (model["name"], model["dtype"]) == (file.model, "bfloat16")
        assert (data["data_dir"], data["max_unreadable"]) == (str(tmp_path), 0)
        assert (data["name"], data["eval_split"]) == (table.dataset, "validation")
        RunSettings.split(config)[0].check(8)
        if name == "imagenet":
            is_large = file.model.endswith("_384")
            size = (data["image_size"], data["eval_crop"])
            assert size == ((384, 1.0) if is_large else (224, 0.875))
        else:
            assert data["scale"] == {"ade20k": (2048, 512), "coco": (1333, 800)}[name]


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [
        ("imagenet", "val", "val"),
        ("imagenet", "validation", "validation"),
        ("ade20k", "annotations/validation", "validation"),
    ],
)
def test_trees_of_files_are_known_by_their_folders(name, folder, split, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    (file, *_) = TABLES[name].choose_files([])

    def find(**options):
        return configure(TABLES[name], file.model, EvalOptions(tmp_path, **options))

    data = find()["data"]
    assert (data["name"], data["eval_split"]) == ("folder", split)
    assert find(split="other")["data"]["eval_split"] == "other"
    # A data set of TFDS beside it is preferred.
    (tmp_path / TABLES[name].dataset).mkdir()
    assert find()["data"]["name"] == TABLES[name].dataset
    assert find(split="validation[:8]")["data"]["eval_split"] == "validation[:8]"


def test_a_page_shows_scores_beside_the_published_ones(tmp_path):
    page = ScorePage(tmp_path / "page.md", "Scores", 5000)
    row = {"num_images": 5000, "sha256": "0", "conditions": {"in": "float32"}}
    page.add("mask_rcnn_litv2_s_fpn_1x_coco", row | {"scores": {"box_AP": 0.45}})
    other = {"conditions": {"in": "bfloat16"}, "num_images": 12}
    page.add("alpha_0.2", row | other | {"scores": {"top1": 0.8125}})
    scores = {"box_AP": 0.4494, "mask_AP": 0.4041}
    page.add("mask_rcnn_litv2_s_fpn_1x_coco", row | {"scores": scores})
    text = (tmp_path / "page.md").read_text()
    assert text.splitlines()[4:] == [
        "| `litv2_s_alpha0.2` | top-1 | in a figure | 81.25 |  | 12 of 5,000 | 1 |",
        "| `mask_rcnn_litv2_s` | box AP | 44.9 | 44.94 | +0.04 | 5,000 | 2 |",
        "| `mask_rcnn_litv2_s` | mask AP | 40.8 | 40.41 | -0.39 | 5,000 | 2 |",
        "",
        "Conditions:",
        "",
        "1. in bfloat16",
        "2. in float32",
    ]
    assert ScorePage(tmp_path / "page.md", "Scores", 5000).text() == text
    for damage in ("{", "[]", '{"x": {}}'):
        (tmp_path / "page.json").write_text(damage)
        with pytest.raises(ConfigError, match="page.json is damaged .*: delete it"):
            ScorePage(tmp_path / "page.md", "Scores", 5000)


def publish(releases, monkeypatch, family, config, name):
    """Serves random weights of a small model as if they were published."""
    monkeypatch.setitem(family.configs, name, config)
    model = fill(lambda: litv2_jax.create_model(name, rngs=nnx.Rngs(0)))
    path = cache_folder().parent / "served.pth"
    arrays = litv2_jax.to_torch_state_dict(model)
    write_torch_checkpoint(path, arrays, family.torch_entry)
    file = PublishedFile("v9", f"{name}.pth", name, {})
    monkeypatch.setitem(PUBLISHED, name, file)
    releases.files[f"/v9/{name}.pth"] = path.read_bytes()


@pytest.mark.slow
def test_segmentation_is_scored(releases, monkeypatch, tmp_path):
    config = dataclasses.replace(
        SEMANTIC_FPN.configs["semantic_fpn_litv2_s"],
        backbone=NANO.backbone,
        num_classes=6,
        fpn_dim=8,
        head_dim=8,
    )
    publish(releases, monkeypatch, SEMANTIC_FPN, config, "semantic_fpn_nano")
    pairs = {name: make_pair(45, 70, i) for i, name in enumerate("ab")}
    write_tree(tmp_path, "validation", pairs)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES[:6]))

    def find_recipe(model):
        config = demo.get_config("shapes")
        config.model.name, config.model.sizes = model, {}
        config.data.scale, config.data.zero_label = (112, 60), "class"
        return config

    table = dataclasses.replace(TABLES["ade20k"], find_recipe=find_recipe)
    page = tmp_path / "page.md"
    models = ["semantic_fpn_nano"]
    assert reproduce(table, EvalOptions(tmp_path), page, models=models) == []
    row = (
        r"\| `semantic_fpn_nano` \| mIoU \| in a figure \| \d+.\d\d \|  \| 2 of 2,000 "
    )
    assert re.search(row, page.read_text())


@pytest.mark.slow
def test_detection_is_scored(releases, monkeypatch, tmp_path):
    config = dataclasses.replace(
        RETINANET.configs["retinanet_litv2_s_window4"],
        backbone=dataclasses.replace(NANO.backbone, window_sizes=(0, 0, 4, 1)),
        num_classes=5,
        fpn_dim=8,
        head_dim=8,
        num_convs=1,
    )
    publish(releases, monkeypatch, RETINANET, config, "retinanet_nano")

    def find_recipe(model):
        config = demo_detection.get_config()
        config.model.name, config.model.sizes = model, {}
        config.data.train_split = "train[:16]"
        return config

    table = dataclasses.replace(TABLES["coco"], find_recipe=find_recipe)
    page, options = tmp_path / "page.md", EvalOptions(tmp_path, split="test[:9]")
    assert reproduce(table, options, page, models=["retinanet_nano"]) == []
    row = r"\| `retinanet_nano` \| box AP \| in a figure \| \d+.\d\d \|  \| 9 of 5,000 "
    assert re.search(row, page.read_text())


@pytest.mark.slow
def test_classes_of_imagenet_are_matched_by_their_numbers(
    releases, monkeypatch, tmp_path
):
    config = dataclasses.replace(NANO, num_classes=1000)
    publish(releases, monkeypatch, CLASSIFIER, config, "litv2_nano1000")
    generator = np.random.default_rng(0)
    for number in class_names.imagenet_names():
        path = tmp_path / "val" / number / "x.png"
        path.parent.mkdir(parents=True)
        colors = generator.integers(256, size=(5, 6, 3), dtype=np.uint8)
        Image.fromarray(colors).save(path)
    page, models = tmp_path / "page.md", ["litv2_nano1000"]
    assert reproduce(TABLE, EvalOptions(tmp_path), page, models=models) == []
    row = (
        r"\| `litv2_nano1000` \| top-1 \| in a figure \| 0.\d\d \|  \| 1,000 of 50,000 "
    )
    assert re.search(row, page.read_text())
    # A model of other classes has no score.
    reproduce(TABLE, EvalOptions(tmp_path), page, models=["nano"])
    assert "`litv2_nano`" not in page.read_text()
