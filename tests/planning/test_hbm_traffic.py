"""What a TPU program moves to and from its main memory, read from the compiler's text."""

import pytest

from thinksafe_jax.planning.hbm_traffic import LargeCopy, hbm_traffic
from thinksafe_jax.planning.hlo import HloModule, arrays_of

PROGRAM = """\
HloModule jit_decode

%write (pool: bf16[2,9,64,128], at: s32[4], new: bf16[4,128]) -> bf16[2,9,64,128] {
  %pool = bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[4]{0:T(128)S(1)} parameter(1)
  %new = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %scatter = bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)} scatter(%pool, %at, %new), to_apply=%set
}

%look (table: bf16[1000,256], ids: s32[4]) -> bf16[4,256] {
  %table = bf16[1000,256]{1,0:T(8,128)(2,1)} parameter(0)
  %ids = s32[4]{0:T(128)S(1)} parameter(1)
  ROOT %rows = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} gather(%table, %ids), slice_sizes={1,256}
}

%same (w: bf16[256,256]) -> bf16[65536] {
  %w = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %flat = bf16[65536]{0} bitcast(%w)
}

%product (w: bf16[256,256], x: bf16[4,256]) -> bf16[4,256] {
  %w.1 = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(0)
  %x.1 = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %w.2 = bf16[65536]{0} fusion(%w.1), kind=kLoop, calls=%same
  ROOT %y = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} convolution(%x.1, %w.2), dim_labels=bf_oi->bf
}

%common (p: f32[1024]) -> f32[1024] {
  ROOT %p.1 = f32[1024]{0:T(1024)} parameter(0)
}

%seldom (p: f32[1024]) -> f32[1024] {
  %p.2 = f32[1024]{0:T(1024)} parameter(0)
  ROOT %n = f32[1024]{0:T(1024)} negate(%p.2)
}

%body (given: (bf16[256,256], bf16[2,9,64,128])) -> (bf16[256,256], bf16[2,9,64,128]) {
  %given = (bf16[256,256]{1,0:T(8,128)(2,1)}, bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)}) parameter(0)
  %w.3 = bf16[256,256]{1,0:T(8,128)(2,1)} get-tuple-element(%given), index=0
  %pool.1 = bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%given), index=1
  %x.2 = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} iota(), iota_dimension=0
  %y.1 = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} fusion(%w.3, %x.2), kind=kOutput, calls=%product, \
metadata={op_name="jit(decode)/while/body/mlp/dot_general"}
  %i = s32[4]{0:T(128)S(1)} iota(), iota_dimension=0
  %k = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} slice(%y.1), slice={[0:4], [0:128]}
  %pool.2 = bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)} fusion(%pool.1, %i, %k), kind=kCustom, \
calls=%write, metadata={op_name="jit(decode)/while/body/attention/shard_map/scatter"}
  %a = f32[4,128]{1,0:T(8,128)S(1)} custom-call(%pool.2, %i), custom_call_target="tpu_custom_call"
  ROOT %next = (bf16[256,256]{1,0}, bf16[2,9,64,128]{3,2,1,0}) tuple(%w.3, %pool.2)
}

%condition (given: (bf16[256,256], bf16[2,9,64,128])) -> pred[] {
  ROOT %more = pred[] constant(true)
}

ENTRY %main (w: bf16[256,256], pool: bf16[2,9,64,128], big: f32[2048,2048]) -> f32[1024] {
  %w.4 = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(0), \
metadata={op_name="params[\\'layers\\'][3][\\'up_proj\\'][\\'kernel\\']"}
  %pool.3 = bf16[2,9,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %big = f32[2048,2048]{1,0:T(8,128)} parameter(2), metadata={op_name="cache.layers[0].keys"}
  %table.1 = bf16[1000,256]{1,0:T(8,128)(2,1)} parameter(3), \
metadata={op_name="params[\\'embed\\']"}
  %t = (bf16[256,256]{1,0}, bf16[2,9,64,128]{3,2,1,0}) tuple(%w.4, %pool.3)
  %loop = (bf16[256,256]{1,0}, bf16[2,9,64,128]{3,2,1,0}) while(%t), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"10"}}
  %turned = f32[2048,2048]{0,1:T(8,128)} copy(%big)
  %ids.1 = s32[4]{0:T(128)S(1)} iota(), iota_dimension=0
  %rows.1 = bf16[4,256]{1,0:T(8,128)(2,1)S(1)} fusion(%table.1, %ids.1), kind=kCustom, calls=%look
  %into = (bf16[256,256]{1,0:T(8,128)(2,1)S(1)}, bf16[256,256]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) \
copy-start(%w.4)
  %in = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%into)
  %v = f32[1024]{0:T(1024)S(1)} iota(), iota_dimension=0
  ROOT %c = f32[1024]{0:T(1024)} conditional(%b, %v, %v), branch_computations={%common, %seldom}
}
"""
WEIGHT, POOL, PAGES = 256 * 256 * 2, 2 * 9 * 64 * 128 * 2, "bf16[2,9,64,128]"


def test_a_weight_is_read_at_every_turn_and_once_where_it_is_fetched_into_vmem():
    assert hbm_traffic(PROGRAM).by_operation["params[layers.up_proj.kernel]"] == 11 * WEIGHT


def test_a_lookup_reads_its_rows_and_not_the_table():
    assert hbm_traffic(PROGRAM).by_operation["params[embed]"] == 8 * 256 * 2  # 8: a tile of rows


def test_what_is_written_into_a_pool_leaves_the_rest_in_place():
    written = hbm_traffic(PROGRAM).by_operation["attention/scatter"]
    assert written == 10 * 8 * 128 * 2


def test_a_kernel_reads_all_of_its_operand_unless_it_is_said_how_much():
    whole, part = hbm_traffic(PROGRAM), hbm_traffic(PROGRAM, {PAGES: 1000.0})
    assert part.by_operation["keys and values"] == 10 * 1000
    assert whole.bytes - part.bytes == 10 * (POOL - 1000)


def test_a_rare_branch_is_told_apart():
    assert hbm_traffic(PROGRAM).rare == 2 * 1024 * 4


def test_a_large_copy_is_named_by_what_it_copies():
    size = 2048 * 2048 * 4
    assert hbm_traffic(PROGRAM).copies == [
        LargeCopy("cache.layers.keys", "f32[2048,2048]", size, runs=1)
    ]


@pytest.mark.parametrize(
    ("type_text", "held", "in_hbm"),
    [
        ("bf16[4,64]{1,0:T(8,128)(2,1)}", 8 * 128 * 2, True),
        ("bf16[4,64]{0,1:T(8,128)(2,1)}", 64 * 128 * 2, True),
        ("f32[100]{0:T(128)S(1)}", 128 * 4, False),
        ("s4[8]", 4, True),
        ("pred[]", 1, True),
    ],
)
def test_tiles_pad_what_an_array_takes(type_text, held, in_hbm):
    (array,) = arrays_of(type_text)
    assert (array.held_bytes, array.in_hbm) == (held, in_hbm)


def test_an_instruction_is_read_whole():
    start = HloModule(PROGRAM).instructions("")["into"]
    assert (start.opcode, start.operands, len(start.arrays)) == ("copy-start", ("w.4",), 3)
    weight = HloModule(PROGRAM).instructions("")["w.4"]
    assert weight.source == "params['layers'][3]['up_proj']['kernel']"
