"""What programs send between devices is counted as often as it runs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.compile_for.collectives import count_collectives
from stp_jax.devices.sharding import make_mesh

KIB = 2.0**-20  # GiB


def counted(function, *shapes, specs, out=None):
    mesh = make_mesh(data=2, fsdp=4)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    program = jax.jit(function, out_shardings=NamedSharding(mesh, out or P())).lower(*arguments).compile()
    return count_collectives(program.as_text())


def test_a_gathered_array_is_received_but_for_the_own_part():
    found = counted(lambda x: 2 * x, (8, 1024), specs=[P(("data", "fsdp"))])
    assert found == {"all-gather": (1, pytest.approx(32 * KIB * 7 / 8))}


def test_groups_of_devices_count_with_their_own_size():
    found = counted(lambda x: 2 * x, (8, 1024), specs=[P("fsdp")])
    assert found == {"all-gather": (1, pytest.approx(32 * KIB * 3 / 4))}


def test_a_sum_over_devices_is_received_twice():
    found = counted(lambda x: x.sum(0), (8, 1024), specs=[P(("data", "fsdp"))])
    assert found == {"all-reduce": (1, pytest.approx(2 * 4 * KIB * 7 / 8))}


def test_what_a_loop_exchanges_counts_as_often_as_it_runs():
    def layers(x, kernels):
        def one(x, kernel):
            return jnp.tanh(x @ kernel), None

        return jax.lax.scan(one, x, kernels)[0]

    found = counted(layers, (8, 64), (5, 64, 64), specs=[P("data"), P(None, "fsdp")], out=P("data"))
    assert found["all-gather"][0] == 5 or found["all-reduce"][0] == 5, found


# As a TPU's compiler writes them: one gathering spread over two fusions within a loop of 30, and one sum.
PROGRAM = """
%fused.1 (p: bf16[96,1536]) -> bf16[1536,1536] {
  ROOT %g.1 = bf16[1536,1536]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=1,'axis_1'=16] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%fused.2 (p: bf16[96,1536]) -> bf16[1536,1536] {
  ROOT %g.2 = bf16[1536,1536]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=1,'axis_1'=16] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%body (p: (s32[], bf16[96,1536])) -> (s32[], bf16[96,1536]) {
  %a = bf16[1536,1536] fusion(%x), kind=kCustom, calls=%fused.1
  %b = bf16[1536,1536] fusion(%x), kind=kCustom, calls=%fused.2
}

%condition (p: (s32[], bf16[96,1536])) -> pred[] {
  %n = s32[]{:T(128)} constant(30)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: bf16[96,1536]) -> f32[] {
  %w = (s32[], bf16[96,1536]) while(%t), condition=%condition, body=%body
  %s = (f32[1024]{0}, f32[1024]{0}) all-reduce(%y, %z), replica_groups=[4,4]<=[16], to_apply=%add
  %q = (f32[256]{0}, f32[256]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%y), source_target_pairs={{0,2}}
}
"""  # noqa: E501


def test_a_collective_in_pieces_is_one():
    found = count_collectives(PROGRAM)
    assert found == {
        "all-gather": (30, pytest.approx(30 * 4608 * KIB * 15 / 16)),
        "all-reduce": (1, pytest.approx(2 * 8 * KIB * 3 / 4)),
        "collective-permute": (1, pytest.approx(KIB)),
    }


# As a GPU's compiler writes them: operands beside results, and how often a loop runs.
GPU_PROGRAM = """
%body (p: (s32[], f32[256])) -> (s32[], f32[256]) {
  %r = ((f32[256]{0}), f32[256]{0}) all-reduce-start(%x), replica_groups=[2,4]<=[8], to_apply=%add
  %s = ((f32[256]{0}, f32[512]{0}), (f32[64]{0}, f32[128]{0})) reduce-scatter-start(%x, %y), replica_groups=[2,4]<=[8]
}

%condition (p: (s32[], f32[256])) -> pred[] {
  ROOT %lt = pred[] fusion(%p), kind=kLoop, calls=%compare
}

ENTRY %main (p: f32[256]) -> f32[] {
  %w = (s32[], f32[256]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"40"}}
  %p = ((bf16[512]{0}, f32[256]{0}), (bf16[512]{0}, f32[256]{0})) collective-permute-start(%y, %z)
  %g = ((f32[256]{0}), f32[1024]{0}) all-gather-start(%y), replica_groups=[2,4]<=[8], dimensions={0}
}
"""  # noqa: E501


def test_operands_beside_results_do_not_count_and_loops_run_as_often_as_noted():
    assert count_collectives(GPU_PROGRAM) == {
        "all-gather": (1, pytest.approx(4 * KIB * 3 / 4)),
        "reduce-scatter": (40, pytest.approx(40 * 0.75 * KIB * 3)),
        "all-reduce": (40, pytest.approx(2 * 40 * KIB * 3 / 4)),
        "collective-permute": (1, pytest.approx(2 * KIB)),
    }
