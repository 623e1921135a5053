"""What hides behind what, read from the schedule of a TPU program."""

import jax
import jax.numpy as jnp
import pytest

from thinksafe_jax.planning.collectives import collectives_of
from thinksafe_jax.planning.hlo import HloModule
from thinksafe_jax.planning.hlo_flops import FlopCounter
from thinksafe_jax.planning.overlap import Overlap, overlap_of
from thinksafe_jax.sharding import Topology

# a product of 1 MFLOP takes 1 s, as do 1 MB of memory, and 1 MB on the links
TOPOLOGY = Topology("made up", 4, 1, peak_flops=1e6, hbm_bandwidth=1e6, interconnect_bandwidth=2e6)

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%product (x: bf16[64,128], w: bf16[128,256]) -> bf16[64,256] {
  %x = bf16[64,128]{1,0} parameter(0)
  %w = bf16[128,256]{1,0} parameter(1)
  ROOT %y = bf16[64,256]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}

%first_piece (p: bf16[128,64]) -> bf16[128,256] {
  %p = bf16[128,64]{1,0} parameter(0)
  ROOT %ag.1 = bf16[128,256]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], \
dimensions={1}, frontend_attributes={chain_id="3"}, metadata={op_name="jit(step)/mlp/squeeze"}
}

%piece_and_product (x: bf16[64,128], w: bf16[128,256], p: bf16[128,64]) -> bf16[64,256] {
  %x.1 = bf16[64,128]{1,0} parameter(0)
  %w.1 = bf16[128,256]{1,0} parameter(1)
  %p.1 = bf16[128,64]{1,0} parameter(2)
  %ag.2 = bf16[128,256]{1,0} all-gather(%p.1), channel_id=7, replica_groups=[1,4]<=[4], \
dimensions={1}, frontend_attributes={chain_id="3"}
  ROOT %y.1 = bf16[64,256]{1,0} convolution(%x.1, %w.1), dim_labels=bf_io->bf
}

%body (given: (s32[], bf16[64,128])) -> (s32[], bf16[64,128]) {
  %given = (s32[], bf16[64,128]{1,0}) parameter(0)
  %x.2 = bf16[64,128]{1,0} get-tuple-element(%given), index=1
  %w.2 = bf16[128,256]{1,0} iota(), iota_dimension=0
  %p.2 = bf16[128,64]{1,0} iota(), iota_dimension=0
  %sent = (bf16[64,128]{1,0}, bf16[64,128]{1,0}, u32[], u32[]) collective-permute-start(%x.2), \
source_target_pairs={{0,1},{1,2}}, metadata={op_name="jit(step)/while/body/attention/permute"}
  %y.2 = bf16[64,256]{1,0} fusion(%x.2, %w.2), kind=kOutput, calls=%product, \
metadata={op_name="jit(step)/while/body/attention/dot_general"}
  %sum = bf16[64,256]{1,0} all-reduce(%y.2), replica_groups=[1,4]<=[4], to_apply=%add
  %got = bf16[64,128]{1,0} collective-permute-done(%sent)
  %async-collective-start = bf16[128,256]{1,0} fusion(%p.2), kind=kCustom, calls=%first_piece
  %y.3 = bf16[64,256]{1,0} fusion(%got, %w.2, %p.2), kind=kOutput, calls=%piece_and_product, \
metadata={op_name="jit(step)/while/body/mlp/dot_general"}
  %attend.4 = bf16[64,128]{1,0} custom-call(%got), custom_call_target="tpu_custom_call"
  %async-collective-done = bf16[128,256]{1,0} fusion(%p.2), kind=kCustom, calls=%first_piece
  ROOT %next = (s32[], bf16[64,128]{1,0}) tuple(%i, %attend.4)
}

%condition (given: (s32[], bf16[64,128])) -> pred[] {
  %limit = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: bf16[64,128]) -> bf16[64,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], bf16[64,128]{1,0}) tuple(%zero, %p)
  %w.3 = (s32[], bf16[64,128]) while(%t), condition=%condition, body=%body
  %late = (bf16[64,128]{1,0}, bf16[64,128]{1,0}, u32[], u32[]) collective-permute-start(%p), \
source_target_pairs={{0,1}}
  %end = bf16[64,128]{1,0} collective-permute-done(%late)
}
"""
PRODUCT = 2 * 64 * 128 * 256 / 1e6  # seconds
LARGE, SMALL = 128 * 256 * 2 / 1e6, 64 * 128 * 2 / 1e6  # seconds of an array: gathered, permuted


@pytest.fixture(scope="module")
def overlap() -> Overlap:
    return overlap_of(PROGRAM, TOPOLOGY)


def test_a_collective_hides_behind_the_product_between_its_start_and_its_end(overlap):
    permute = next(c for c in overlap.collectives if c.scope == "attention/permute")
    assert (permute.kind, permute.runs) == ("collective-permute", 5)
    assert permute.behind == "attention/dot_general"
    assert permute.flops == 1e6 * PRODUCT
    assert permute.message_seconds == permute.hidden_seconds == pytest.approx(SMALL)
    assert permute.work_seconds == pytest.approx(PRODUCT)  # the all-reduce beside it is no work


def test_a_collective_in_pieces_lasts_from_its_first_piece_to_its_last(overlap):
    gather = next(c for c in overlap.collectives if c.kind == "all-gather")
    assert (gather.scope, gather.runs, gather.behind) == ("mlp/squeeze", 5, "mlp/dot_general")
    assert gather.message_seconds == pytest.approx(LARGE * 3 / 4)
    # a kernel counts by what it reads and writes
    assert gather.work_seconds == pytest.approx(PRODUCT + 2 * SMALL)


def test_a_collective_that_ends_where_it_starts_hides_nothing(overlap):
    late = next(c for c in overlap.collectives if not c.behind)
    assert (late.runs, late.work_seconds, late.hidden_seconds) == (1, 0.0, 0.0)


def test_messages_are_those_of_all_collectives(overlap):
    reduced = 64 * 256 * 2 / 1e6 * 2 * 3 / 4
    assert overlap.message_seconds == pytest.approx(5 * (SMALL + reduced + LARGE * 3 / 4) + SMALL)
    assert overlap.hidden_seconds == pytest.approx(5 * (SMALL + LARGE * 3 / 4))


def test_a_program_takes_at_least_its_work_and_the_messages_that_nothing_hides(overlap):
    whole = 64 * 256 * 2 / 1e6
    made = LARGE + 128 * 64 * 2 / 1e6  # the two iotas
    assert overlap.work_seconds == pytest.approx(5 * (2 * PRODUCT + 2 * SMALL + made))
    exposed = 5 * whole * 2 * 3 / 4 + SMALL
    assert overlap.seconds == pytest.approx(overlap.work_seconds + exposed)


@pytest.mark.parametrize(
    ("line", "products"),
    [
        ("bf16[64,8,32] convolution(%a, %b), window={size=8 pad=7_7 rhs_reversal=1}, "
         "dim_labels=bf0_0oi->b0f", 64 * 8 * 32 * 128),
        ("bf16[64,32,1] convolution(%c, %b), window={size=8}, dim_labels=b0f_0oi->bf0",
         64 * 32 * 8 * 128),
        ("bf16[64,32] convolution(%d, %e), dim_labels=bf_oi->bf", 64 * 32 * 128),
        ("bf16[64,32] dot(%d, %e), lhs_contracting_dims={1}, rhs_contracting_dims={1}",
         64 * 32 * 128),
        ("bf16[64,4,32] convolution(%c, %f), window={size=2 stride=2}, dim_labels=b0f_0oi->b0f",
         64 * 4 * 32 * 2 * 128),
    ],
)  # fmt: skip
def test_flops_of_a_product_as_the_compiler_writes_it(line, products):
    text = f"""\
ENTRY %main (a: bf16[64,128,1]) -> bf16[64] {{
  %a = bf16[64,128,1]{{2,1,0}} parameter(0)
  %b = bf16[8,32,128]{{2,1,0}} parameter(1)
  %c = bf16[64,8,128]{{2,1,0}} parameter(2)
  %d = bf16[64,128]{{1,0}} parameter(3)
  %e = bf16[32,128]{{1,0}} parameter(4)
  %f = bf16[2,32,128]{{2,1,0}} parameter(5)
  %y = {line}
}}
"""
    assert FlopCounter(HloModule(text)).of_computation("") == 2 * products


def test_flops_of_a_loop_that_xla_compiled():
    def function(x, w):
        return jax.lax.fori_loop(0, 7, lambda i, y: y @ w, x).sum()

    x, w = jnp.ones((16, 32)), jnp.ones((32, 32))
    text = jax.jit(function).lower(x, w).compile().as_text()
    assert FlopCounter(HloModule(text)).of_computation("") == 7 * 2 * 16 * 32 * 32


def test_a_collective_of_another_core_begins_where_its_operand_comes():
    """As a SparseCore runs it: started early without an operand, which an update brings."""
    text = """\
%product (x: bf16[64,128], w: bf16[128,256]) -> bf16[64,256] {
  %x = bf16[64,128]{1,0} parameter(0)
  %w = bf16[128,256]{1,0} parameter(1)
  ROOT %y = bf16[64,256]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}

%called (p: bf16[64,256]) -> bf16[64,256] {
  %p = bf16[64,256]{1,0} parameter(0)
  ROOT %ar = bf16[64,256]{1,0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add
}

%on_another_core (p: bf16[64,256]) -> bf16[64,256] {
  %p.1 = bf16[64,256]{1,0} parameter(0)
  ROOT %ar.1 = bf16[64,256]{1,0} call(%p.1), to_apply=%called
}

ENTRY %main (x: bf16[64,128], w: bf16[128,256]) -> bf16[64,256] {
  %x.1 = bf16[64,128]{1,0} parameter(0)
  %w.1 = bf16[128,256]{1,0} parameter(1)
  %begun = ((), (), s32[]) async-start(), async_execution_thread="sparsecore", \
calls=%on_another_core, metadata={op_name="jit(step)/mlp/dot_general"}
  %y.1 = bf16[64,256]{1,0} fusion(%x.1, %w.1), kind=kOutput, calls=%product
  %given = ((bf16[64,256]), bf16[64,256]) async-update(%begun, %y.1)
  %y.2 = bf16[64,256]{1,0} fusion(%x.1, %w.1), kind=kOutput, calls=%product, \
metadata={op_name="jit(step)/attention/dot_general"}
  ROOT %done = bf16[64,256]{1,0} async-done(%given)
}
"""
    (reduce,) = overlap_of(text, TOPOLOGY).collectives
    assert (reduce.kind, reduce.scope) == ("all-reduce", "mlp/dot_general")
    assert (reduce.behind, reduce.flops) == ("attention/dot_general", 1e6 * PRODUCT)
    assert collectives_of(text)["all-reduce"].asynchronous == 1
    # the same with its operand at once
    whole = text.replace("async-start()", "async-start(%x.1)").replace("%given)", "%begun)")
    (reduce,) = overlap_of(whole, TOPOLOGY).collectives
    assert reduce.flops == 2e6 * PRODUCT
