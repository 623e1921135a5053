"""The reader of compiled programs: what they send, counted as often as it runs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from thinksafe_jax.planning.collectives import CollectiveTraffic, collectives_of, total
from thinksafe_jax.planning.replica_groups import replica_groups, source_target_pairs
from thinksafe_jax.training.losses import chunked_loss

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


def test_a_scope_bounds_a_loop_whose_turns_the_data_decide():
    """As the loss has over the slices of its positions, forward or with its derivative."""
    name = 'body=%body, metadata={op_name="jit(step)/jvp(at_most_16)/while"}'
    text = PROGRAM.replace("direction=LT", "direction=NE").replace("body=%body", name)
    assert collectives_of(text)["all-reduce"].count == 16 + 1


def test_the_loss_is_counted_in_all_its_slices():
    mesh = jax.make_mesh((4,), ("tensor",), axis_types=(AxisType.Auto,))
    kernel = jax.ShapeDtypeStruct(
        (64, 16), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("tensor", None))
    )
    hidden, targets = jnp.ones((2, 64, 16)), jnp.zeros((2, 64), jnp.int32)
    weights = {"ce": jnp.ones((2, 64))}

    def loss(hidden, kernel):
        return chunked_loss(hidden, kernel, targets, weights, chunk=8).loss

    compiled = jax.jit(jax.value_and_grad(loss)).lower(hidden, kernel).compile()
    assert collectives_of(compiled.as_text())["all-reduce"].count >= 3 * 16  # largest, sum, chosen


@pytest.mark.parametrize("groups", ["{{0},{1}}", "[8,1]<=[8]", "mesh['a'=8,'b'=1] {'b'}"])
def test_a_group_of_one_sends_nothing(groups):
    line = (
        f"ENTRY %m (p: f32[4]) -> f32[4] {{\n  %a = f32[4] all-reduce(%p), replica_groups={groups}"
    )
    assert total(collectives_of(line)) == CollectiveTraffic()


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,3},{1,2}}", [[0, 3], [1, 2]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=4,'b'=2], device_ids=([2,2,2]T(0,2,1)) {'a'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=4], device_ids=(0,2,1,3) {'a':(1)2}", [[0, 1], [2, 3]]),
    ],
)  # fmt: skip
def test_groups_as_xla_writes_them(text, groups):
    line = f"%a = f32[4] all-reduce(%p), replica_groups={text}, use_global_device_ids=true"
    assert sorted(sorted(g) for g in replica_groups(line).tolist()) == groups


def test_what_names_no_group_is_all_devices():
    line = "%a = f32[4] all-reduce(%p), replica_groups={}, to_apply=%add"
    assert replica_groups(line) is None
    text = f"ENTRY %m (p: f32[4]) -> f32[4] {{\n  {line}"
    assert total(collectives_of(text, slices=[0] * 8)).wire_bytes == 2 * 16 * 7 / 8


SLICES = [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("operation", "within", "across"),
    [
        # 160 bytes: reduced in each slice of four, a quarter on between the two, as a ring of two
        ("all-reduce(%p), replica_groups=[1,8]<=[8]", 2 * 160 * 3 / 4, 2 * 160 / 4 / 2),
        ("all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0)", 0, 2 * 160 / 2),
        ("all-reduce(%p), replica_groups=[2,4]<=[8]", 2 * 160 * 3 / 4, 0),
        ("all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}", 160 * 3 / 4, 160 / 4 / 2),
        ("collective-permute(%p), source_target_pairs={{0,4},{1,2}}", 0, 160),
        ("collective-permute(%p), source_target_pairs={{0,3},{4,5}}", 160, 0),
    ],
)
def test_what_crosses_slices_is_told_from_what_stays(operation, within, across):
    text = f"ENTRY %m (p: f32[40]) -> f32[40] {{\n  %a = f32[40] {operation}"
    sent = total(collectives_of(text, slices=SLICES))
    assert (sent.wire_bytes, sent.dcn_bytes) == (within, across)
    doubled = sent.times(3).scaled(0.5)
    assert (doubled.wire_bytes, doubled.dcn_bytes) == (1.5 * within, 1.5 * across)


def test_pairs_of_a_permute():
    assert source_target_pairs("collective-permute(%u)").shape == (0, 2)
    assert source_target_pairs("x, source_target_pairs={{0,4},{4,0}}").tolist() == [[0, 4], [4, 0]]


MEGASCALE = """\
ENTRY %m (p: f32[40]) -> f32[40] {
  %a = f32[40]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %send = (f32[40]{0}, u32[]{:S(2)}, token[]) send(%a, %t), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="KIND"}
  %done = token[] send-done(%send), channel_id=2, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %other = (f32[9]{0}, u32[], token[]) send(%p, %t), channel_id=3, is_host_transfer=true
"""


@pytest.mark.parametrize(
    ("kind", "name", "across"),
    [("ALL_REDUCE", "all-reduce", 160), ("ALL_GATHER", "all-gather", 160),
     ("ONE_TO_ONE", "collective-permute", 160)],
)  # fmt: skip
def test_the_tpus_compiler_sends_between_slices_what_it_reduced_in_each(kind, name, across):
    """As libtpu 0.0.50 writes it for two slices."""
    found = collectives_of(MEGASCALE.replace("KIND", kind), slices=SLICES)
    within = CollectiveTraffic(1, 160, 2 * 160 * 3 / 4)
    between = CollectiveTraffic(1, 160, 0, across, asynchronous=1)
    assert total(found) == within + between
    assert found[name].dcn_bytes == across
    four = collectives_of(MEGASCALE.replace("KIND", kind), slices=[n // 4 for n in range(16)])
    assert four[name].dcn_bytes == {"ALL_REDUCE": 240, "ALL_GATHER": 480, "ONE_TO_ONE": 160}[kind]
