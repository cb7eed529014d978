import dataclasses

import pytest

from benchmarks import hlo
from benchmarks.collectives import Collective
from benchmarks.h200 import estimates
from benchmarks.h200.estimates import estimate_exchange, estimate_seconds, estimate_step

# A copy of a millisecond, 4.3 GB read and written, beside a sum of 450 MB, and a sum
# for which XLA lets the kernels wait.
PROGRAM = """HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

ENTRY %main (p: u8[2150000000], g: f32[112500000]) -> f32[112500000] {
  %p = u8[2150000000]{0} parameter(0)
  %g = f32[112500000]{0} parameter(1)
  %start.1 = f32[112500000]{0} all-reduce-start(%g), to_apply=%sum, \
backend_config={"collective_backend_config":{"is_sync":false}}
  %copy.1 = u8[2150000000]{0} copy(%p)
  %done.1 = f32[112500000]{0} all-reduce-done(%start.1)
  %start.2 = f32[112500000]{0} all-reduce-start(%done.1), to_apply=%sum, \
backend_config={"collective_backend_config":{"is_sync":true}}
  %copy.2 = u8[2150000000]{0} copy(%copy.1)
  ROOT %done.2 = f32[112500000]{0} all-reduce-done(%start.2)
}
"""

SUM = Collective("all-reduce", "f32[112500000]{0}", 1, "")

# Twice seven eighths of 450 MB at 450 GB/s; of an eighth of that, at 50 GB/s.
WITHIN, BETWEEN = 1.75e-3, 1.96875e-3


def test_kernels_are_bound_by_the_slowest():
    kernel = hlo.Kernel("a", "loop fusion", "f32[]", 0, 0, 0, 3, {})
    assert estimate_seconds([kernel]) == pytest.approx(3 * estimates.LAUNCH)
    moving = hlo.Kernel("a", "copy", "f32[]", 43 * 10**8, 0, 10, 1, {})
    assert estimate_seconds([moving]) == pytest.approx(1e-3)
    product = hlo.Kernel("a", "dot", "f32[]", 8, 8, 79 * 10**10, 1, {})
    assert estimate_seconds([product]) == pytest.approx(1e-3)


def test_sums_go_around_within_hosts_and_between_them():
    latency = estimates.LATENCY
    assert estimate_exchange(SUM, 8, 8) == pytest.approx(WITHIN + latency)
    expected = WITHIN + BETWEEN + 4 * latency
    assert estimate_exchange(SUM, 64, 64) == pytest.approx(expected)
    # The gradients of more GPUs are as large.
    assert estimate_exchange(SUM, 8, 64) == pytest.approx(expected)
    twice = dataclasses.replace(SUM, count=2)
    assert estimate_exchange(twice, 8, 8) == pytest.approx(2 * (WITHIN + latency))


def test_gathered_arrays_grow_with_the_gpus():
    gather = dataclasses.replace(SUM, kind="all-gather")
    latency = estimates.LATENCY
    expected = WITHIN / 2 + latency
    assert estimate_exchange(gather, 8, 8) == pytest.approx(expected)
    expected = 8 * (WITHIN + BETWEEN) / 2 + 4 * latency
    assert estimate_exchange(gather, 8, 64) == pytest.approx(expected)


def test_what_no_step_exchanges_has_no_estimate():
    with pytest.raises(ValueError, match="no estimate for all-to-all"):
        estimate_exchange(dataclasses.replace(SUM, kind="all-to-all"), 8, 8)


def test_kernels_run_beside_asynchronous_exchanges_alone():
    found = estimate_step(PROGRAM, 8, 8)
    exchange = WITHIN + estimates.LATENCY
    assert found.computing == pytest.approx(2e-3)
    assert found.exchanging == pytest.approx(2 * exchange)
    # One copy, of a millisecond, hides a part of the first sum.
    assert found.waiting == pytest.approx(2 * exchange - 1e-3)
    assert found.total == pytest.approx(found.computing + found.waiting)

    asynchronous = PROGRAM.replace('"is_sync":true', '"is_sync":false')
    found = estimate_step(asynchronous, 8, 8)
    assert found.waiting == pytest.approx(2 * exchange - 2e-3)


def test_exchanges_that_begin_together_take_turns():
    text = PROGRAM.replace("all-reduce-start(%done.1)", "all-reduce-start(%g)")
    lines = text.splitlines()
    copy, done = (
        next(i for i, line in enumerate(lines) if name in line)
        for name in ("%copy.2 =", "%done.1 =")
    )
    lines.insert(copy, lines.pop(done))
    text = "\n".join(lines).replace('"is_sync":true', '"is_sync":false')
    exchange = WITHIN + estimates.LATENCY
    # Both copies run before either sum has ended.
    assert estimate_step(text, 8, 8).total == pytest.approx(2 * exchange)
