"""FLOPs and bytes of compiled programs, on texts whose numbers are known."""

import numpy as np
import pytest

from lfjax.planning.hlo import _pairs, cost_of, size

LOOP = """HloModule jit_step, entry_computation_layout={()->f32[]}

%fused (p0: bf16[4,8], p1: bf16[8,16]) -> bf16[4,16] {
  %p0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[4,16]{1,0:T(8,128)S(1)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %w = bf16[8,4]{1,0} constant({...})
  %all-gather.2 = bf16[8,16]{1,0:T(8,128)} all-gather(%w), dimensions={1}
  %y = bf16[4,16]{1,0} fusion(%x, %all-gather.2), kind=kOutput, calls=%fused
  ROOT %t = (s32[], bf16[4,8]{1,0}) tuple(%i, %x)
}

%condition (p.1: (s32[], bf16[4,8])) -> pred[] {
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}

%counts (p.5: (s32[], bf16[4,8])) -> pred[] {
  %nine = s32[]{:T(128)} constant(9)
  %p.5 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%p.5), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%at, %nine), direction=LT, metadata={op_name="lt"}
}

%small (p.2: f32[2,3]) -> f32[2,2] {
  %p.2 = f32[2,3]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%p.2, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%nothing (p.3: f32[2,3]) -> f32[2,2] {
  ROOT %zero = f32[2,2]{1,0} constant({...})
}

%all-reduce-scatter.3 (p.4: f32[8,4]) -> f32[2,4] {
  %p.4 = f32[8,4]{1,0} parameter(0)
  %all-reduce.9 = f32[8,4]{1,0} all-reduce(%p.4), replica_groups={{0,1,2,3}}, to_apply=%sum
  ROOT %slice = f32[2,4]{1,0} dynamic-slice(%all-reduce.9, %i), dynamic_slice_sizes={2,4}
}

%sum (s.1: f32[], s.2: f32[]) -> f32[] {
  ROOT %add = f32[] add(%s.1, %s.2)
}

ENTRY %main (arg: bf16[4,8]) -> f32[] {
  %arg = bf16[4,8]{1,0} parameter(0)
  %while.1 = (s32[], bf16[4,8]{1,0}) while(%tuple.0), condition=%condition, body=%body, BACKEND
  %while.2 = (s32[], bf16[4,8]{1,0}) while(%tuple.0), condition=%counts, body=%body
  %unknown = (s32[], bf16[4,8]{1,0}) while(%tuple.0), condition=%condition, body=%body
  %c = f32[2,2]{1,0} conditional(%index, %f, %f), branch_computations={%nothing, %small}
  %g = f32[8,4]{1,0} constant({...})
  %rs = f32[2,4]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %start = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%g), dimensions={0}
  ROOT %done = f32[32,4]{1,0} all-gather-done(%start)
}
""".replace("BACKEND", 'backend_config={"known_trip_count":{"n":"80"}}')


def test_bodies_count_as_often_as_they_run():
    cost = cost_of(LOOP)
    assert cost.flops == 90 * 2 * 4 * 8 * 16 + 2 * 2 * 2 * 3  # an unknown loop counts once
    assert cost.unknown_loops == 1
    assert cost.calls == {"all-gather": 91, "reduce-scatter": 1}
    assert cost.sent["all-gather"] == 90 * 8 * 16 * 2 + 32 * 4 * 4
    assert cost.sent["reduce-scatter"] == 8 * 4 * 4


def test_bytes_of_shapes():
    assert size("bf16[4,8]{1,0:T(8,128)(2,1)S(1)}") == 64
    assert size("(f32[3], s32[], pred[5]{0}, s4[4])") == 12 + 4 + 5 + 2
    assert size("f8e4m3fn[10]") == 10


@pytest.mark.parametrize("batch", (1, 3, 8))
def test_a_batched_product_as_a_convolution(batch):
    # Of as many positions, each of which meets its own element of the kernel.
    how = dict(low=0, stride=max(batch - 1, 1), lhs_dilate=batch, rhs_dilate=1)
    found = _pairs(batch, batch, batch, **how)
    at = np.arange(batch)[:, None] * how["stride"] + np.arange(batch)
    inside = (at <= (batch - 1) * batch) & (at % batch == 0)
    assert found == inside.sum() == batch


TWOS = """HloModule jit_step, entry_computation_layout={()->f32[]}

%body (p: (f32[2,3], u32[])) -> (f32[2,3], u32[]) {
  %p = (f32[2,3]{1,0}, u32[]) parameter(0)
  %x = f32[2,3]{1,0} get-tuple-element(%p), index=0
  %two = u32[]{:T(128)} constant(2), metadata={op_name="two"}
  %at = u32[]{:T(128)} get-tuple-element(%p), index=1
  %next = u32[]{:T(128)} add(%at, %two)
  %dot.1 = f32[2,2]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %t = (f32[2,3]{1,0}, u32[]) tuple(%x, %next)
}

%below (p.1: (f32[2,3], u32[])) -> pred[] {
  %seven = u32[]{:T(128)} constant(7)
  %p.1 = (f32[2,3]{1,0}, u32[]) parameter(0)
  %at.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=1
  ROOT %lt = pred[]{:T(512)} compare(%at.1, %seven), direction=LT
}

ENTRY %main (arg: f32[2,3]) -> f32[] {
  %arg = f32[2,3]{1,0} parameter(0)
  ROOT %while.1 = (f32[2,3]{1,0}, u32[]) while(%tuple.0), condition=%below, body=%body
}
"""


def test_a_loop_that_counts_by_twos():
    cost = cost_of(TWOS)
    assert cost.flops == 4 * 2 * 2 * 2 * 3 and cost.unknown_loops == 0  # 0, 2, 4, 6


KERNEL = """HloModule jit_step, entry_computation_layout={()->f32[]}

ENTRY %main (q: bf16[2,4,512,64]) -> bf16[2,4,512,64] {
  %q = bf16[2,4,512,64]{3,2,1,0} parameter(0)
  %other.1 = bf16[2,4,512,64]{3,2,1,0} custom-call(%q), custom_call_target="tpu_custom_call"
  %ids.1 = s32[2,512,128]{2,1,0} constant({...})
  ROOT %NAME.2 = (f32[2,512,128]{2,1,0}, bf16[2,1,512,64]{3,2,1,0}) custom-call(%q, %ids.1), x
}
"""


@pytest.mark.parametrize(("name", "products"), {"fwd": 2, "dq": 3, "dkv": 4}.items())
def test_attention_kernels(name, products):
    """Each of their products multiplies and adds for half of all pairs of tokens."""
    cost = cost_of(KERNEL.replace("NAME", f"splash_mha_{name}_segmented"))
    assert cost.flops == products * 2 * (2 * 4 * 512 * 512 * 64) / 2


STEPS = """HloModule jit_step, entry_computation_layout={()->f32[]}

%begun (p.1: f32[8]) -> f32[32] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[32]{0} all-gather(%p.1), channel_id=7, dimensions={0}
}

%async_collective_fusion.4 (p.2: f32[8]) -> f32[32] {
  %p.2 = f32[8]{0} parameter(0)
  %dot.1 = f32[] dot(%p.2, %p.2), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %all-gather.2 = f32[32]{0} all-gather(%p.2), channel_id=7, dimensions={0}
}

ENTRY %main (q: f32[8]) -> f32[32] {
  %q = f32[8]{0} parameter(0)
  %async-collective-start = f32[32]{0} fusion(%q), kind=kCustom, calls=%begun
  %fusion.2 = f32[32]{0} fusion(%q), kind=kCustom, calls=%async_collective_fusion.4
  %async-collective-done = f32[32]{0} fusion(%fusion.2), kind=kCustom, calls=%begun
  ROOT %all-gather.3 = f32[32]{0} all-gather(%q), channel_id=8, dimensions={0}
}
"""


def test_a_collective_in_steps_counts_once():
    cost = cost_of(STEPS)
    assert cost.calls == {"all-gather": 2} and cost.sent["all-gather"] == 2 * 32 * 4
    assert cost.flops == 2 * 8
