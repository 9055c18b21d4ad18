"""Collectives read from HLO text: loops, async pairs, groups, a TPU's fused reduce-scatter."""

import pytest

from vlp_jax.plan.hlo import Collective, array_bytes, collectives, wire_bytes

SIZES = {"data": 4, "fsdp": 2, "tensor": 1}
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %all-reduce.1 = (f32[8,4]{1,0:T(8,128)S(1)}, /*index=1*/bf16[2]{0:T(2,128)(2,1)}) all-reduce(%x, %y), replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  ROOT %out = (s32[], f32[8,4]) tuple(%i, %x)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%all-reduce-scatter (z: f32[16,4]) -> f32[2,4] {
  %z = f32[16,4]{1,0} parameter(0)
  %all-reduce.2 = f32[16,4]{1,0} all-reduce(%z), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %piece = f32[2,4] dynamic-slice(%all-reduce.2, %k)
}

%async_collective_fusion.7 (x: f32[8,4]) -> f32[16,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %all-gather.7 = f32[16,4]{1,0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
}

%fused_computation.7 (x: f32[8,4]) -> f32[16,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %all-gather.8 = f32[16,4]{1,0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %loop = (s32[], f32[8,4]) while(%t), condition=%condition, body=%body
  %known = (s32[], f32[8,4]) while(%t), condition=%other, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %ag = (f32[8,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%x), replica_groups=[4,2]<=[8], dimensions={0}
  %agd = f32[16,4]{1,0} all-gather-done(%ag)
  %rs = f32[1,4]{1,0} reduce-scatter(%x), replica_groups=mesh['data'=4,'fsdp'=2,'tensor'=1] {'data','fsdp'}, to_apply=%add
  %fused = f32[2,4]{1,0} fusion(%agd), kind=kCustom, calls=%all-reduce-scatter
  %cp = (f32[8,4], f32[8,4], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,2},{2,0}}
  %cpd = f32[8,4] collective-permute-done(%cp)
  %async-collective-start.1 = (f32[16,4]) fusion(%x), kind=kCustom, calls=%fused_computation.7
  %both = (f32[8,4], f32[16,4]) fusion(%x), calls=%async_collective_fusion.7
  %async-collective-done.1 = f32[16,4] fusion(%both), kind=kCustom, calls=%fused_computation.7
  %alone = f32[8,4] all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %same = f32[8,4] copy(%x)
}
"""  # noqa: E501


def test_kinds_axes_counts_and_bytes():
    found = {(c.kind, c.axis): (c.count, c.bytes) for c in collectives(TEXT, SIZES)}
    assert found == {
        ("all-reduce", "data"): (12 + 3, 15 * (8 * 4 * 4 + 2 * 2)),
        ("all-gather", "fsdp"): (2, 2 * 16 * 4 * 4),
        ("reduce-scatter", "data+fsdp"): (2, 8 * 4 * 4 + 16 * 4 * 4),
        ("collective-permute", "data"): (1, 8 * 4 * 4),
    }


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "fsdp"),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", "data"),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", "data+fsdp"),
        ("replica_groups={}", "data+fsdp"),
    ],
)
def test_replica_groups_name_their_axes(groups, axis):
    text = f"ENTRY %m (x: f32[2]) -> f32[2] {{\n  %r = f32[2] all-reduce(%x), {groups}\n}}\n"
    assert [c.axis for c in collectives(text, SIZES)] == [axis]


def test_sizes_of_types():
    assert array_bytes("(f32[2,3]{1,0:T(8,128)S(1)}, pred[5], s4[3], bf16[])") == [24, 5, 2, 2]


def test_ring_traffic():
    found = [Collective("all-reduce", "data", 1, 1000), Collective("all-gather", "fsdp", 1, 1000)]
    assert wire_bytes(found, SIZES) == pytest.approx(2 * 750 + 500)
