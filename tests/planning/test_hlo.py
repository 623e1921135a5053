"""Reading a compiled program's text."""

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
