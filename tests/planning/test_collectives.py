"""The reader of compiled programs: what they send, counted as often as it runs."""

import pytest

from thinksafe_jax.planning.collectives import CollectiveTraffic, collectives_of, total

pytestmark = pytest.mark.slow

PROGRAM = """\
HloModule jit_step

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %ag = bf16[8,16]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={1}
  %ar = f32[8]{0} all-reduce(%y), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%condition (p: (s32[], bf16[8,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%taken (p: f32[4]) -> f32[4] {
  %big = f32[1000]{0} all-reduce(%z), replica_groups={{0,1,2,3}}, to_apply=%add
}

%skipped (p: f32[4]) -> f32[4] {
  ROOT %same = f32[4]{0} copy(%p)
}

%piece (p: bf16[2]) -> bf16[2] {
  %one = bf16[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], \
frontend_attributes={chain_id="3"}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], bf16[8,16]) while(%t), condition=%condition, body=%body
  %c = f32[4] conditional(%b, %p, %p), branch_computations={%taken, %skipped}
  %f = bf16[2] fusion(%q), kind=kCustom, calls=%piece
  %g = bf16[2] fusion(%q), kind=kCustom, calls=%piece
  %s = (f32[8]{0}, f32[64]{0}) all-gather-start(%v), replica_groups=mesh['a'=1,'b'=8] {'b'}
  %k = f32[4]{0} collective-permute(%u), metadata={op_name="x all-reduce(%y)"}
  %r = f32[4]{0} reduce-scatter(%m), replica_groups=[1,8]<=[8], dimensions={0}
}
"""


def test_loops_conditionals_pieces_and_every_way_to_write_a_group():
    found = collectives_of(PROGRAM)
    # the loop's, four of whose devices send three quarters each; the chain once; the started one
    loop, chain, started = 5 * 8 * 16 * 2, 64 * 2, 64 * 4
    assert found["all-gather"] == CollectiveTraffic(
        5 + 1 + 1, loop + chain + started, loop * 3 / 4 + (chain + started) * 7 / 8, asynchronous=2
    )
    assert found["all-reduce"] == CollectiveTraffic(5 + 1, 5 * 32 + 4000, 5 * 32 + 2 * 4000 * 3 / 4)
    assert found["collective-permute"] == CollectiveTraffic(1, 16, 16)
    assert found["reduce-scatter"] == CollectiveTraffic(1, 128, 128 * 7 / 8)
    assert total(found).count == 15


def test_the_branch_that_sends_least():
    assert collectives_of(PROGRAM, branches="least")["all-reduce"] == CollectiveTraffic(5, 160, 160)


def test_a_known_number_of_turns_comes_before_the_condition():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"36"}}'
    text = PROGRAM.replace("body=%body", known)
    assert collectives_of(text)["all-reduce"].count == 37


def test_a_loop_whose_turns_the_data_decide_is_counted_once():
    assert collectives_of(PROGRAM.replace("direction=LT", "direction=NE"))["all-reduce"].count == 2


@pytest.mark.parametrize("groups", ["{{0},{1}}", "[8,1]<=[8]", "mesh['a'=8,'b'=1] {'b'}"])
def test_a_group_of_one_sends_nothing(groups):
    line = (
        f"ENTRY %m (p: f32[4]) -> f32[4] {{\n  %a = f32[4] all-reduce(%p), replica_groups={groups}"
    )
    assert total(collectives_of(line)) == CollectiveTraffic()
