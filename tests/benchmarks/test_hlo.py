import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo

# As XLA prints it, cut down: two fusions, a loop of three turns, libraries.
PROGRAM = """HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused_read (p0: bf16[10,8], p1: f32[8], p2: s32[3]) -> (f32[4,8], bf16[3,8]) {
  %p2 = s32[3]{0} parameter(2)
  %p0 = bf16[10,8]{1,0} parameter(0)
  %p1 = f32[8]{0} parameter(1)
  %bitcast.1 = bf16[10,8]{1,0} bitcast(%p0)
  %slice.1 = bf16[4,8]{1,0} slice(%bitcast.1), slice={[2:6], [0:8]}
  %convert.1 = f32[4,8]{1,0} convert(%slice.1)
  %broadcast.1 = f32[4,8]{1,0} broadcast(%p1), dimensions={1}
  %multiply.1 = f32[4,8]{1,0} multiply(%convert.1, %broadcast.1)
  %gather.1 = bf16[3,8]{1,0} gather(%p0, %p2), offset_dims={1}, slice_sizes={1,8}
  ROOT %tuple.1 = (f32[4,8]{1,0}, bf16[3,8]{1,0}) tuple(%multiply.1, %gather.1)
}

%fused_add (p0.1: f32[10,8], p1.1: s32[3,1], p2.1: bf16[3,8]) -> f32[10,8] {
  %p0.1 = f32[10,8]{1,0} parameter(0)
  %p1.1 = s32[3,1]{1,0} parameter(1)
  %p2.1 = bf16[3,8]{1,0} parameter(2)
  %convert.2 = f32[3,8]{1,0} convert(%p2.1)
  ROOT %scatter.1 = f32[10,8]{1,0} scatter(%p0.1, %p1.1, %convert.2), to_apply=%sum
}

%fused_update (p0.2: f32[10,8], p1.2: f32[1,8], p2.2: s32[]) -> f32[10,8] {
  %p0.2 = f32[10,8]{1,0} parameter(0)
  %p1.2 = f32[1,8]{1,0} parameter(1)
  %p2.2 = s32[] parameter(2)
  ROOT %dus.1 = f32[10,8]{1,0} dynamic-update-slice(%p0.2, %p1.2, %p2.2, %p2.2)
}

%body (state: (s32[], f32[10,8], f32[1,8])) -> (s32[], f32[10,8], f32[1,8]) {
  %state = (s32[], f32[10,8]{1,0}, f32[1,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %map = f32[10,8]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0} get-tuple-element(%state), index=2
  %update = f32[10,8]{1,0} fusion(%map, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], f32[10,8]{1,0}, f32[1,8]{1,0}) tuple(%i, %update, %row)
}

%condition (state.1: (s32[], f32[10,8], f32[1,8])) -> pred[] {
  %state.1 = (s32[], f32[10,8]{1,0}, f32[1,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: bf16[10,8], s: f32[8], n: s32[3], y: f32[10,8], r: f32[1,8]) -> f32[] {
  %x = bf16[10,8]{1,0} parameter(0)
  %s = f32[8]{0} parameter(1)
  %n = s32[3]{0} parameter(2)
  %y = f32[10,8]{1,0} parameter(3)
  %r = f32[1,8]{1,0} parameter(4)
  %zero = s32[] constant(0)
  %read = (f32[4,8]{1,0}, /*index=1*/bf16[3,8]{1,0}) fusion(%x, %s, %n), kind=kLoop, \
calls=%fused_read
  %rows = bf16[3,8]{1,0} get-tuple-element(%read), index=1
  %places = s32[3,1]{1,0} bitcast(%n)
  %add = f32[10,8]{1,0} fusion(%y, %places, %rows), kind=kInput, calls=%fused_add
  %start = (s32[], f32[10,8]{1,0}, f32[1,8]{1,0}) tuple(%zero, %add, %r)
  %loop = (s32[], f32[10,8]{1,0}, f32[1,8]{1,0}) while(%start), \
condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %product = (f32[10,10]{1,0}, s8[4096]{0}) custom-call(%x, %x), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["1"]}}}
  ROOT %done = f32[] constant(0)
}
"""


@pytest.fixture(scope="module")
def kernels():
    return {kernel.name: kernel for kernel in hlo.list_kernels(PROGRAM)}


def test_only_what_runs_is_a_kernel(kernels):
    assert list(kernels) == ["read", "add", "update", "product"]
    assert [kernel.kind for kernel in kernels.values()] == [
        "loop fusion",
        "input fusion",
        "loop fusion",
        "__cublas$lt$matmul",
    ]
    assert [kernel.count for kernel in kernels.values()] == [1, 1, 3, 1]


def test_slices_and_gathers_read_what_comes_out(kernels):
    # Slice and gather of x, all of the scales and of the indices.
    assert kernels["read"].bytes_read == (4 * 8 + 3 * 8) * 2 + 8 * 4 + 3 * 4
    assert kernels["read"].bytes_written == 4 * 8 * 4 + 3 * 8 * 2


def test_scatters_read_and_write_the_updates(kernels):
    # The updates are bfloat16 in memory and float32 where they are added.
    assert kernels["add"].bytes_read == 3 * 8 * 4 + 3 * 4 + 3 * 8 * 2
    assert kernels["add"].bytes_written == 3 * 8 * 4


def test_updates_of_a_slice_write_the_slice_as_often_as_the_loop_turns(kernels):
    update = kernels["update"]
    assert update.count == 3
    assert update.bytes_read == 8 * 4 + 4
    assert update.bytes_written == 8 * 4
    assert update.bytes_moved == 3 * (8 * 4 + 4 + 8 * 4)


def test_libraries_count_without_scratch_space(kernels):
    # Both operands are x, which the cache keeps.
    assert kernels["product"].bytes_read == 10 * 8 * 2
    assert kernels["product"].bytes_written == 10 * 10 * 4
    assert kernels["product"].flops == 2 * 10 * 10 * 8


def test_totals_are_the_sums(kernels):
    totals = hlo.add_up(list(kernels.values()))
    assert totals.kernels == 6
    assert totals.flops == 1600
    assert totals.bytes_moved == sum(x.bytes_moved for x in kernels.values())


def test_a_kernel_says_what_is_in_it(kernels):
    read = kernels["read"]
    expected = {"slice": 1, "convert": 1, "broadcast": 1, "multiply": 1, "gather": 1}
    assert read.ops == expected
    assert kernels["add"].ops == {"convert": 1, "scatter": 1}


def test_an_operand_never_counts_more_than_whole():
    wide = PROGRAM.replace("bf16[4,8]{1,0} slice", "bf16[9,8]{1,0} slice")
    assert hlo.list_kernels(wide)[0].bytes_read == 10 * 8 * 2 + 8 * 4 + 3 * 4


@pytest.mark.parametrize(
    ("groups", "flops", "is_grouped"),
    [(1, 2 * 25 * 6 * 9 * 6, 0), (6, 2 * 25 * 6 * 9, 1)],
)
def test_convolutions(groups, flops, is_grouped):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    x, kernel = jnp.zeros((1, 5, 5, 6)), jnp.zeros((3, 3, 6 // groups, 6))
    kernels = hlo.list_kernels(jax.jit(convolve).lower(x, kernel).compile().as_text())
    assert hlo.add_up(kernels).flops == flops
    assert sum(k.ops.get("grouped-convolution", 0) for k in kernels) == is_grouped


def test_programs_of_this_machine_can_be_read():
    def f(x):
        return jnp.tanh(x @ x.T).sum()

    text = jax.jit(f).lower(jnp.zeros((7, 5))).compile().as_text()
    totals = hlo.add_up(hlo.list_kernels(text))
    assert totals.flops == 2 * 7 * 7 * 5
    # It has to read the input and to write a number.
    assert totals.bytes_moved >= 7 * 5 * 4 + 4


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="not the text of a compiled program"):
        hlo.list_kernels("Hello.")
