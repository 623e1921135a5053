"""Reading a compiled program's text."""

from thinksafe_jax.planning.hbm_traffic import hbm_traffic
from thinksafe_jax.planning.hlo import HloModule, with_plain_tuples

DUMPED = """\
%body (given: (s32[], (f32[8], bf16[2,3]))) -> f32[8] {
  %given = (s32[]{:T(128)}, (f32[8]{0:T(128)}, /*index=1*/bf16[2,3]{1,0:T(8)})) parameter(0)
  %given.1 = f32[8]{0} negate(%given#1#0)
  ROOT %sum = f32[8]{0} add(%given#1#0, %given.1)
}

ENTRY %main (given: (f32[4], f32[8])) -> f32[8] {
  %given = (f32[4]{0}, f32[8]{0}) parameter(0)
  ROOT %y = f32[8]{0} negate(%given#1)
}
"""


def test_elements_of_tuples_get_lines_of_their_own():
    module = HloModule(with_plain_tuples(DUMPED))
    body = module.instructions("body")
    inner = body[body["given.1"].operands[0]]
    assert (inner.opcode, inner.result) == ("get-tuple-element", "f32[8]{0:T(128)}")
    outer = body[inner.operands[0]]
    assert (outer.opcode, outer.operands) == ("get-tuple-element", ("given",))
    assert [array.dims for array in outer.arrays] == [(8,), (2, 3)]
    assert body["sum"].operands == (inner.name, "given.1")
    assert len(body) == 5  # each element once
    # a name stands for its own computation's
    entry = module.instructions("")
    assert [array.dims for array in entry[entry["y"].operands[0]].arrays] == [(8,)]


def test_a_text_without_them_stays_as_it_is():
    text = with_plain_tuples(DUMPED)
    assert with_plain_tuples(text) == text


def test_what_a_fusion_passes_on_in_place_is_neither_read_nor_written():
    text = """\
%pass (a: f32[8], b: f32[4]) -> (f32[4], f32[8]) {
  %a = f32[8]{0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %c = f32[4]{0} negate(%b)
  ROOT %both = (f32[4]{0}, f32[8]{0}) tuple(%c, %a)
}

ENTRY %main (x: f32[8], y: f32[4]) -> (f32[4], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %y = f32[4]{0} parameter(1)
  ROOT %z = (f32[4]{0}, f32[8]{0}) fusion(%x, %y), kind=kOutput, ALIASINGcalls=%pass
}
"""
    in_place = text.replace("ALIASING", "output_to_operand_aliasing={{1}: (0, {})}, ")
    assert hbm_traffic(in_place).bytes == 4 * (4 + 4)
    assert hbm_traffic(text.replace("ALIASING", "")).bytes == 4 * (4 + 4 + 8 + 8)
