"""Whatever is damaged in a checkpoint is noticed, named and never trained on."""

import json
import random
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.checkpoints import (
    find_checkpoint,
    initialize_from,
    list_steps,
    load_weights,
    manifest,
    read_description,
    save_weights,
)
from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.devices import Devices
from litv2_jax.training.loop import fit
from litv2_jax.training.step import TrainState
from tests.training.test_loop import read_weights
from tests.training.toy import Toy, toy_run


def state_of(step: int, size: int = 2000) -> TrainState:
    """A state whose arrays do not compress, so that most of their bytes matter."""
    rng = np.random.default_rng(step)
    arrays = [jnp.asarray(rng.standard_normal(size), jnp.float32) for _ in range(3)]
    return TrainState(
        jnp.int32(step), {"a": {"w": arrays[0]}}, {"m": arrays[1]}, (arrays[2],)
    )


def abstract_state() -> TrainState:
    devices = Devices(jax.devices()[:1])
    return devices.replicate_shapes(jax.eval_shape(lambda: state_of(0)))


def open_checkpoints(directory: Path) -> Checkpoints:
    return Checkpoints(directory, "top1", {"model": {"name": "x"}})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 36 and 40, as a run leaves them."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with open_checkpoints(directory) as checkpoints:
        for step, top1 in ((36, 0.5), (40, 0.9)):
            checkpoints.save(step, state_of(step), {"top1": top1})
    return directory


def find_files(folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in paths if path.stat().st_size)


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of them to damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restore(directory: Path, **options):
    return open_checkpoints(directory).restore(abstract_state(), **options)


def assert_same(state: TrainState, step: int) -> None:
    chex.assert_trees_all_equal(state, state_of(step))


def test_any_flipped_bit_is_refused_or_harmless(copy, tmp_path, capfd):
    """In any file of a checkpoint, never silently other arrays."""
    random_bits = random.Random(0)
    files = find_files(copy / "40")
    messages = []
    for path in files * 6:
        original = path.read_bytes()
        flipped = bytearray(original)
        bit = random_bits.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            state, results = restore(copy)
            assert_same(state, 40)
            assert results == {"top1": 0.9}
        except ConfigError as error:
            messages.append(str(error))
        path.write_bytes(original)
    # The others are in files that reading does not need.
    assert len(messages) > len(files)
    for message in messages:
        assert f"The checkpoint {copy / '40'} is damaged: " in message
        assert "add --skip-damaged to go on from the one of step 36." in message
        assert "\n" not in message
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_files_that_are_cut_or_gone_are_refused_or_harmless(copy, damage, capfd):
    files = find_files(copy / "40")
    messages = []
    for path in files:
        original = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(original[: len(original) // 2 if damage == "cut" else 0])
        try:
            assert_same(restore(copy)[0], 40)
        except ConfigError as error:
            messages.append(str(error))
        path.write_bytes(original)
    assert len(messages) >= 5  # The manifest, and database and data of both parts.
    assert all("is damaged: " in message for message in messages)
    assert "Traceback" not in capfd.readouterr().err


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("model", "the array model/params/a/w is missing"),
        ("optimizer", "the array optimizer/opt_state/0 is missing"),
        ("_CHECKPOINT_METADATA", "it has no _CHECKPOINT_METADATA"),
    ],
)
def test_parts_that_are_missing_are_named(copy, part, message):
    remove(copy / "40" / part)
    with pytest.raises(ConfigError, match=message):
        restore(copy)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_parts_of_two_checkpoints_do_not_mix(copy, part):
    remove(copy / "40" / part)
    shutil.copytree(copy / "36" / part, copy / "40" / part)
    with pytest.raises(ConfigError, match=f"the array {part}/.* differs from what was"):
        restore(copy)


def test_a_checkpoint_in_the_place_of_another_is_refused(copy):
    remove(copy / "40")
    shutil.copytree(copy / "36", copy / "40")
    for read in (restore, lambda path: find_checkpoint(path.parent)):
        with pytest.raises(ConfigError, match="is damaged: it is that of step 36"):
            read(copy)


def damage(checkpoint: Path) -> None:
    """Flips a bit of each file with data of weights."""
    for path in (checkpoint / "model" / "d").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def test_a_damaged_checkpoint_is_left_out_only_if_told(copy, capsys):
    damage(copy / "40")
    with pytest.raises(ConfigError, match="40 is damaged.*add --skip-damaged"):
        restore(copy)
    assert list_steps(copy) == [36, 40]

    state, results = restore(copy, skip_damaged=True)
    assert_same(state, 36)
    assert results == {"top1": 0.5}
    assert "40 is damaged: " in capsys.readouterr().out
    # Out of the way of the new one of the same step, but not lost.
    assert list_steps(copy) == [36]
    assert list_steps(copy.parent / "checkpoints-damaged") == [40]


def test_without_a_whole_checkpoint_nothing_is_moved(copy):
    damage(copy / "40")
    damage(copy / "36")
    with pytest.raises(ConfigError, match="None of the checkpoints in .* is whole"):
        restore(copy, skip_damaged=True)
    assert list_steps(copy) == [36, 40]
    remove(copy / "40")
    with pytest.raises(ConfigError, match="there is none before it to go on from"):
        restore(copy)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    task, run = Toy(), toy_run(epochs=2.0)
    one = Devices(jax.devices()[:1])
    fit(task, run, tmp_path, one)
    checkpoint = tmp_path / "checkpoints" / "8"
    before = read_weights(task, checkpoint)
    damage(checkpoint)
    with pytest.raises(ConfigError, match="add --skip-damaged to go on from the one"):
        fit(task, run, tmp_path, one)
    fit(task, run, tmp_path, one, skip_damaged=True)
    assert list_steps(tmp_path / "checkpoints") == [4, 8]
    after = read_weights(task, checkpoint)
    chex.assert_trees_all_equal(after, before)


def test_all_who_read_weights_check_them(copy):
    """Resuming, above; scoring, prediction and conversion read by these."""
    damage(copy / "40")
    params, stats = state_of(0).params, state_of(0).stats
    for read in (load_weights, initialize_from):
        for place in (copy.parent, copy / "40"):
            with pytest.raises(ConfigError, match="40 is damaged: ") as error:
                read(place, params, stats)
            assert f"name another of the run, {copy / '36'}" in str(error.value)
        np.testing.assert_array_equal(
            read(copy / "36", params, stats)[0]["a"]["w"], state_of(36).params["a"]["w"]
        )


def test_converted_weights_are_checked(tmp_path):
    state = state_of(1)
    save_weights(tmp_path / "w", state.params, state.stats, {"model": {"name": "x"}})
    load_weights(tmp_path / "w", state.params, state.stats)
    damage(tmp_path / "w")
    with pytest.raises(ConfigError, match="w is damaged: "):
        load_weights(tmp_path / "w", state.params, state.stats)


def test_a_changed_description_is_refused(copy):
    """Class names, the size of inputs and results decide what weights mean."""
    path = copy / "40" / "_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    content["custom_metadata"]["model"]["name"] = "y"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="_CHECKPOINT_METADATA differs from what was"):
        read_description(copy / "40")


# Calling a checkpoint an old one (1) does not get around its digests.
@pytest.mark.parametrize("number", [0, 1, 3, "2", None])
def test_the_format_is_read(copy, number):
    message = "is damaged: its _CHECKPOINT_METADATA lacks what belongs"
    if number == 3:
        message = "has format 3, but this version of litv2_jax reads formats up"
    path = copy / "40" / "_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    content["custom_metadata"]["format"] = number
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        restore(copy)
    with pytest.raises(ConfigError, match=message):
        find_checkpoint(copy.parent)


def test_digests_do_not_depend_on_devices():
    """All of eight devices have the array, of which one is asked."""
    arrays = {"x": jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4), "y": jnp.int32(3)}
    one = manifest.compute_digests(arrays)
    eight = manifest.compute_digests(Devices().replicate(arrays))
    host = manifest.compute_digests({k: np.asarray(x) for k, x in arrays.items()})
    assert one == eight == host
    assert one["x"].dtype == "bfloat16"
    assert one["x"].shape == (3, 4)


def test_the_best_checkpoint_is_the_best_finite_one_else_the_latest(tmp_path):
    nan = float("nan")
    for number, (scores, expected) in enumerate(
        [
            ([0.5, nan, 0.4], 1),
            ([nan, nan, nan], 3),
            ([None, None], 2),
            ([-3.0, -2.0, -4.0], 2),
            ([0.5, 0.5], 2),
            ([float("inf"), 0.1], 2),
        ]
    ):
        directory = tmp_path / str(number) / "checkpoints"
        with open_checkpoints(directory) as checkpoints:
            for step, score in enumerate(scores, 1):
                results = {} if score is None else {"top1": score}
                checkpoints.save(step, state_of(step, size=3), results)
        assert find_checkpoint(directory.parent) == directory / str(expected)


def test_results_can_be_added_to_a_checkpoint(copy):
    """As after a stop before the evaluation; the arrays are not written again."""
    with open_checkpoints(copy) as checkpoints:
        checkpoints.save(44, state_of(44), {})
    with open_checkpoints(copy) as checkpoints:
        checkpoints.add_results(44, {"top1": 0.95})
        assert checkpoints.restore(abstract_state())[1] == {"top1": 0.95}
        assert find_checkpoint(copy.parent) == copy / "44"
    # Damaged ones can be had again.
    (copy / "44" / "results.json").write_text('{"results": {"top1": 9.0}, "digest": 1}')
    assert restore(copy)[1] == {}
