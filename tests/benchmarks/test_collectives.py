import jax
import jax.numpy as jnp

from benchmarks import hlo
from benchmarks.collectives import add_up_bytes, list_collectives
from litv2_jax.training.devices import Devices

# As XLA prints it for GPUs, cut down: one exchange in a loop of three turns.
PROGRAM = """HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %start.1 = f32[8]{0} all-reduce-start(%x), to_apply=%sum, \
metadata={op_name="jit(f)/reduce_sum"}
  %done.1 = f32[8]{0} all-reduce-done(%start.1)
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %done.1)
}

%condition (state.1: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p: bf16[2,4], q: s32[6], r: f32[8]) -> f32[8] {
  %p = bf16[2,4]{1,0} parameter(0)
  %q = s32[6]{0} parameter(1)
  %r = f32[8]{0} parameter(2)
  %start.2 = ((bf16[2,4]{1,0}, s32[6]{0}), (bf16[16,4]{1,0}, s32[48]{0})) \
all-gather-start(%p, %q), dimensions={0}
  %done.2 = (bf16[16,4]{1,0}, s32[48]{0}) all-gather-done(%start.2)
  %permuted = bf16[2,4]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %zero = s32[] constant(0)
  %start.3 = (s32[], f32[8]{0}) tuple(%zero, %r)
  %loop = (s32[], f32[8]{0}) while(%start.3), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %done = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_count_what_each_device_has_afterwards():
    gather, permute, reduce = list_collectives(PROGRAM)
    assert gather.type == "(bf16[16,4]{1,0}, s32[48]{0})"
    assert (reduce.kind, reduce.count) == ("all-reduce", 3)
    assert reduce.source == "jit(f)/reduce_sum"
    assert permute.bytes == 2 * 4 * 2
    assert add_up_bytes([gather, permute, reduce]) == {
        "all-gather": 16 * 4 * 2 + 48 * 4,
        "collective-permute": 2 * 4 * 2,
        "all-reduce": 3 * 8 * 4,
    }


def test_an_asynchronous_sum_is_one_kernel_and_not_its_addition():
    kinds = [kernel.kind for kernel in hlo.list_kernels(PROGRAM)]
    assert kinds == ["all-gather-start", "collective-permute", "all-reduce-start"]


def test_programs_of_this_machine_can_be_read():
    x = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=Devices().batch_sharding)
    text = jax.jit(lambda x: jnp.sum(x, 0)).lower(x).compile().as_text()
    (found,) = list_collectives(text)
    assert (found.kind, found.bytes) == ("all-reduce", 3 * 4)
