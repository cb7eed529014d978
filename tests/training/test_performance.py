import collections
import json
import time
import types

import jax
import jax.numpy as jnp
import pytest

from litv2_jax.training import performance
from litv2_jax.training.loop import fit
from litv2_jax.training.performance import Performance, find_peak_tflops
from tests.training.test_loop import Wrapper
from tests.training.toy import Toy, toy_run


def slow(batches, seconds):
    for batch in batches:
        time.sleep(seconds)
        yield batch


def test_the_rate_leaves_out_the_compilation_and_counts_the_waiting():
    step = jax.jit(lambda x: x @ x)
    batches = slow([jnp.ones((8, 8))] * 5, 0.02)
    meter = Performance(batch_size=10)
    meter.run(step, meter.wait_for(batches))
    assert meter.result() == {}
    for _ in range(4):
        meter.run(step, meter.wait_for(batches))
    time.sleep(0.08)
    result = meter.result()
    # Four steps of ten images in 0.16 s or more, half of it spent waiting.
    assert 10 < result["images_per_second"] <= 40 / 0.16
    assert 0.08 / 0.16 / 4 < result["data_wait"] <= 0.55
    # 2 * 8 * 8 * 8 operations.
    flops = result["images_per_second"] / 10 * 1024 / jax.device_count()
    assert result["tflops_per_device"] * 1e12 == pytest.approx(flops, rel=0.1)
    assert "peak_fraction" not in result
    meter.restart()
    assert meter.result() == {}


def test_a_step_is_lowered_and_compiled_once():
    """Counting the operations lowers it, which JAX has to keep for the step."""
    counts = collections.Counter()

    def count(event, _, fun_name="", **kwargs):
        if fun_name in ("square", "jit(square)"):
            counts[event.rsplit("/", 1)[-1]] += 1

    @jax.jit
    def square(x):
        return x @ x

    x = jnp.ones((8, 8))
    meter = Performance(batch_size=1)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(3):
            meter.run(square, x)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert counts["jaxpr_to_mlir_module_duration"] == 1
    assert set(counts.values()) == {1}, counts


def test_memory_and_peak_are_told_where_they_are_known(monkeypatch):
    device = types.SimpleNamespace(
        device_kind="NVIDIA H100 80GB HBM3",
        memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**30},
    )
    meter = Performance(batch_size=1)
    step = jax.jit(lambda x: x @ x)
    for _ in range(2):
        meter.run(step, jnp.ones((64, 64)))
    monkeypatch.setattr(performance.jax, "local_devices", lambda: [device])
    result = meter.result()
    assert result["peak_memory_gib"] == 3
    expected = result["tflops_per_device"] / 989
    assert result["peak_fraction"] == pytest.approx(expected)


def test_peaks_are_those_of_data_sheets():
    assert find_peak_tflops("NVIDIA H200") == 989
    assert find_peak_tflops("NVIDIA H100 PCIe") == 756
    assert find_peak_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert find_peak_tflops("cpu") == 0


def test_a_run_logs_its_speed_without_evaluation_and_saving(tmp_path):
    """Evaluations of a second do not show in the rate of the steps after them."""
    task = Toy()

    def eval_batches():
        time.sleep(1)
        return task.eval_batches()

    fit(Wrapper(task, eval_batches=eval_batches), toy_run(), tmp_path)
    lines = (tmp_path / "performance.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row["step"] for row in rows]
    assert {6, 7, 10, 11} <= set(steps)
    assert steps == sorted(set(steps))
    # Steps of 16 images.
    assert all(row["images_per_second"] > 16 / 0.9 for row in rows)
    assert all(0 <= row["data_wait"] <= 1 for row in rows)
