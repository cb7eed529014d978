import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.checkpoints import (
    find_checkpoint,
    load_weights,
    read_description,
    save_weights,
)
from litv2_jax.settings import ConfigError
from litv2_jax.training.checkpoint import Checkpoints
from litv2_jax.training.devices import Devices
from litv2_jax.training.step import TrainState


def small_state(value: float) -> TrainState:
    array = jnp.full((3,), value)
    return TrainState(jnp.int32(value), {"w": array}, {"m": array}, (array,))


def test_the_last_two_and_the_best_checkpoint_are_kept(tmp_path):
    description = {"model": {"name": "x"}}
    with Checkpoints(tmp_path / "checkpoints", "top1", description) as checkpoints:
        for step, top1 in enumerate([0.5, 0.9, 0.6, 0.7, 0.8], start=1):
            checkpoints.save(step, small_state(step), {"top1": top1})
    steps = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert steps == ["2", "4", "5"]
    assert find_checkpoint(tmp_path).name == "2"
    assert read_description(find_checkpoint(tmp_path))["model"] == {"name": "x"}

    like = Devices().replicate_shapes(jax.eval_shape(lambda: small_state(0)))
    with Checkpoints(tmp_path / "checkpoints", "top1", description) as checkpoints:
        state, results = checkpoints.restore(like)
    assert int(state.step) == 5
    assert results == {"top1": 0.8}
    np.testing.assert_array_equal(state.params["w"], [5, 5, 5])


def test_saving_does_not_see_what_the_next_step_overwrites(tmp_path):
    """The step donates its state while it is still being written."""

    @jax.jit
    def create():
        return jax.tree.map(lambda x: jnp.zeros((4_000_000,)), small_state(1))

    overwrite = jax.jit(
        lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
    )
    state = create()
    like = Devices(jax.devices()[:1]).replicate_shapes(jax.eval_shape(create))
    with Checkpoints(tmp_path, "top1", {}) as checkpoints:
        checkpoints.save(1, state, {"top1": 0.0})
        for _ in range(5):
            state = overwrite(state)
    with Checkpoints(tmp_path, "top1", {}) as checkpoints:
        saved, _ = checkpoints.restore(like)
    assert float(jnp.abs(saved.params["w"]).max()) == 0


def test_an_interrupted_save_is_no_checkpoint_and_in_nobodys_way(tmp_path):
    with Checkpoints(tmp_path, "top1", {}) as checkpoints:
        checkpoints.save(1, small_state(1), {"top1": 0.0})
    # What a process leaves that was killed while it saved.
    (tmp_path / "1" / "commit_success.txt").unlink()
    (tmp_path / "1").rename(tmp_path / "1.orbax-checkpoint-tmp")
    like = Devices().replicate_shapes(jax.eval_shape(lambda: small_state(0)))
    with Checkpoints(tmp_path, "top1", {}) as checkpoints:
        assert checkpoints.restore(like) is None
        checkpoints.save(1, small_state(7), {"top1": 0.0})
    with Checkpoints(tmp_path, "top1", {}) as checkpoints:
        state, _ = checkpoints.restore(like)
    assert int(state.step) == 7


def test_weights_are_written_once(tmp_path):
    state = small_state(2)
    save_weights(tmp_path / "w", state.params, state.stats, {"model": {"name": "x"}})
    params, _ = load_weights(tmp_path / "w", state.params, state.stats)
    np.testing.assert_array_equal(params["w"], [2, 2, 2])
    with pytest.raises(ConfigError, match="exists already"):
        save_weights(tmp_path / "w", state.params, state.stats, {})


def test_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no checkpoint in"):
        find_checkpoint(tmp_path)
