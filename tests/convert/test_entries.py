"""Weights are found wherever training codes keep them, and the choice is said."""

import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.errors import TorchFileError
from litv2_jax.convert.torch_file import read_checkpoint, write_torch_checkpoint
from tests.convert.pickles import Raw, call, name, save, text
from tests.reference import GOLDEN

WEIGHTS = read_torch_checkpoint(GOLDEN / "litv2_tiny_checkpoint_bare.pth")
AVERAGE = {n: x + 1 if x.dtype.kind == "f" else x for n, x in WEIGHTS.items()}
PART = {"scale": np.ones(3, np.float32), "fc.weight": np.ones((2, 3), np.float32)}


def put(prefix: str, arrays):
    return {f"{prefix}{n}": x for n, x in arrays.items()}


def insert(part: str, arrays):
    """Wraps a layer deep inside."""
    return {n.replace(".blocks.", f".blocks.{part}"): x for n, x in arrays.items()}


def dense(arrays):
    backbone = {n: x for n, x in arrays.items() if n.startswith(("layers", "patch"))}
    rest = {"decode_head.conv_seg.weight": np.ones((5, 4, 1, 1), np.float32)}
    return {**put("backbone.", backbone), **rest}


def check(path, expected, entry=None) -> list[str]:
    """Compares what is read, and returns what is said of it."""
    checkpoint = read_checkpoint(path, entry)
    assert checkpoint.arrays.keys() == expected.keys()
    for n, array in expected.items():
        np.testing.assert_array_equal(checkpoint.arrays[n], array)
    return checkpoint.notes


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod."]
PREFIXES += ["_orig_mod.module.", "module.module.", "model._orig_mod.module."]
PREFIXES += ["model.model.", "student.backbone.model.", "_forward_module.model."]


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_all_names_are_taken_off(tmp_path, prefix, ending):
    path = tmp_path / f"x{ending}"
    write_torch_checkpoint(path, put(prefix, WEIGHTS))
    assert check(path, WEIGHTS) == []


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "detector."])
def test_the_backbone_of_a_dense_model_keeps_its_name(tmp_path, prefix):
    path = save(tmp_path / "x.pth", {"state_dict": put(prefix, dense(WEIGHTS))})
    assert check(path, dense(WEIGHTS)) == []


def test_a_classifier_called_backbone_is_one(tmp_path):
    path = save(tmp_path / "x.pth", put("backbone.", WEIGHTS))
    check(path, WEIGHTS)


@pytest.mark.parametrize(
    "part", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]
)
def test_wrappers_of_layers_are_taken_off(tmp_path, part):
    path = save(tmp_path / "x.pth", insert(part, WEIGHTS))
    check(path, WEIGHTS)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
def test_parts_of_models_keep_the_names_of_their_layers(tmp_path, prefix):
    check(save(tmp_path / "x.pth", put(prefix, PART)), PART)


@pytest.mark.parametrize(
    "names", [["layer.weight", "layer.bias"], ["module."], ["module.a", "b"], ["x.y.z"]]
)
def test_other_prefixes_are_names(tmp_path, names):
    arrays = {n: np.ones(2, np.float32) for n in names}
    check(save(tmp_path / "x.pth", arrays), arrays)


PLACES = ["model", "state_dict", "model_state_dict", "module", "net", "network"]
PLACES += ["weights", "checkpoint.model", "state.state_dict", "trainer.net"]


def nest(place: str, arrays, **beside):
    for key in reversed(place.split(".")):
        arrays = {key: arrays, "epoch": 3, **beside}
    return arrays


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("weights", [WEIGHTS, PART], ids=["model", "part"])
def test_weights_are_found_up_to_two_levels_deep(tmp_path, place, weights):
    optimizer = {"state": {0: {"exp_avg": np.ones(3)}}, "moments": WEIGHTS}
    contents = nest(place, weights, optimizer=optimizer, loss=0.5, names=["a"])
    assert check(save(tmp_path / "x.pth", contents), weights) == []


LAYOUTS = {
    "deit": ({"model": WEIGHTS, "model_ema": AVERAGE}, "model", "model_ema"),
    "timm": (
        {"state_dict": WEIGHTS, "state_dict_ema": AVERAGE},
        "state_dict",
        "state_dict_ema",
    ),
    "in another order": (
        {"model_ema": AVERAGE, "model": WEIGHTS},
        "model",
        "model_ema",
    ),
    "ema": ({"model": WEIGHTS, "ema": AVERAGE}, "model", "ema"),
    "torchvision": (
        {
            "model": put("module.", WEIGHTS),
            "model_ema": {"n_averaged": np.array(7), **put("module.", AVERAGE)},
        },
        "model",
        "model_ema",
    ),
    "mmengine": (
        {
            "state_dict": dense(WEIGHTS),
            "ema_state_dict": {"steps": np.array(7), **put("module.", dense(AVERAGE))},
        },
        "state_dict",
        "ema_state_dict",
    ),
    "in one dictionary": (
        {"state_dict": {**put("model.", WEIGHTS), **put("model_ema.", AVERAGE)}},
        "state_dict.model",
        "state_dict.model_ema",
    ),
    "in one dictionary at the top": (
        {**put("model.", WEIGHTS), **put("ema_model.module.", AVERAGE)},
        "model",
        "ema_model.module",
    ),
    "within the model": (
        {"state_dict": {**WEIGHTS, **put("ema.", AVERAGE)}},
        "state_dict",
        "state_dict.ema",
    ),
    "teacher": (
        {"model": {**put("student.", WEIGHTS), **put("teacher.", AVERAGE)}},
        "model.student",
        "model.teacher",
    ),
    "nested": ({"ema": {"module": AVERAGE}, "net": WEIGHTS}, "net", "ema.module"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_before_their_average_and_both_can_be_had(tmp_path, layout):
    contents, label, other = LAYOUTS[layout]
    path = save(tmp_path / "x.pth", contents)
    is_dense = layout == "mmengine"
    weights, average = (dense(x) if is_dense else x for x in (WEIGHTS, AVERAGE))

    (note,) = check(path, weights)
    assert f"those of '{label}'. The file also has '{other}'" in note
    assert "--entry" in note
    notes = check(path, average, other)
    assert f"those of '{other}'. The file also has '{label}'" in notes[0]
    counts = [n for n in ("n_averaged", "steps") if n in str(contents.values())]
    assert all("Left aside" in note and counts[0] in note for note in notes[1:])
    assert len(notes) == 1 + len(counts)


def test_averages_that_mmcv_keeps_among_the_weights(tmp_path):
    """It has them of parameters, under names without dots."""
    twins = {
        f"ema_{n.replace('.', '_')}": x
        for n, x in AVERAGE.items()
        if "running" not in n and "num_batches" not in n
    }
    path = save(tmp_path / "x.pth", {"state_dict": {**WEIGHTS, **twins}})
    (note,) = check(path, WEIGHTS)
    assert "also has 'state_dict.ema'" in note
    buffers = {n: x for n, x in WEIGHTS.items() if "running" in n}
    check(path, {**AVERAGE, **buffers}, "state_dict.ema")


@pytest.mark.parametrize("label", ["model_ema", "state_dict_ema", "ema", "ema.module"])
def test_an_average_alone_is_taken_and_called_one(tmp_path, label):
    path = save(tmp_path / "x.pth", nest(label, AVERAGE))
    (note,) = check(path, AVERAGE)
    assert f"those of '{label}', which seem to be an average" in note
    check(path, AVERAGE, label)
    check(path, AVERAGE, label.partition(".")[0])


def test_the_choice_is_logged(tmp_path, caplog):
    path = save(tmp_path / "x.pth", {"model": WEIGHTS, "model_ema": AVERAGE})
    read_torch_checkpoint(path)
    assert "x.pth: The weights are those of 'model'." in caplog.text
    caplog.clear()
    read_torch_checkpoint(save(path, {"model": WEIGHTS, "loss": np.ones(1)}))
    assert not caplog.text


def test_weights_that_are_equally_good_are_not_chosen_among(tmp_path):
    path = save(tmp_path / "x.pth", {"first": WEIGHTS, "second": AVERAGE})
    with pytest.raises(
        TorchFileError, match="'first', 'second': name one with --entry"
    ):
        read_torch_checkpoint(path)
    check(path, AVERAGE, "second")


@pytest.mark.parametrize("entry", ["ema", "", "model.", "module", "\x1b[2J" * 99])
def test_an_entry_that_is_not_there_is_answered_with_those_that_are(tmp_path, entry):
    path = save(tmp_path / "x.pth", {"model": WEIGHTS, "average": AVERAGE})
    with pytest.raises(
        TorchFileError, match=r"no entry .* are 'model', 'average'"
    ) as e:
        read_torch_checkpoint(path, entry)
    assert str(e.value).isprintable()
    plain = tmp_path / "plain.safetensors"
    write_torch_checkpoint(plain, WEIGHTS)
    with pytest.raises(TorchFileError, match="its weights are all of it"):
        read_torch_checkpoint(plain, "model")


def test_what_is_beside_the_weights_is_left_only_if_they_are_named(tmp_path):
    others = {"loss.weight": np.ones(3, np.float32)}
    contents = {"state_dict": {**put("model.", WEIGHTS), **others}}
    path = save(tmp_path / "x.pth", contents)
    with pytest.raises(
        TorchFileError, match=r"holds loss.weight: .* --entry state_dict"
    ):
        read_torch_checkpoint(path)
    (note,) = check(path, WEIGHTS, "state_dict.model")
    assert note == "Left aside, as no weights: loss.weight."


def test_names_that_are_no_text_are_counted(tmp_path):
    path = save(
        tmp_path / "x.pth", {**PART, 3: PART["scale"], "a" * 2000: PART["scale"]}
    )
    with pytest.raises(TorchFileError, match="2 of its arrays have names that are no"):
        read_torch_checkpoint(path)


def test_a_dictionary_that_leads_to_itself_is_read(tmp_path):
    contents = {"model": PART, "self": Raw(b"h\x63"), "list": Raw(b"]q\x62h\x62a")}
    path = tmp_path / "x.pth"
    memo = Raw(b"}q\x63" + text("x") + b"h\x63s")
    check(save(path, {"loop": memo, **contents}), PART)


def test_a_dictionary_of_another_class_is_one(tmp_path):
    made = call(name("mmengine.config.ConfigDict"), b"}" + text("a") + b"Ns")
    contents = {"model": PART, "config": Raw(made)}
    assert read_checkpoint(save(tmp_path / "x.pth", contents)).config == {"a": None}
