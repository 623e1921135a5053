"""Where an unsafe answer is cut, and what it counts; one rule for the probe and for the horizon."""

import pytest

from thinksafe_jax.synthesis import beginning, rescue

END = 0


@pytest.mark.parametrize(
    ("answer", "cut"),
    [
        ([5, 6, 7, END], [5, 6]),
        ([5, 6, 7], [5, 6]),
        ([5, 6, END], [5, 6]),  # the end is a token: after two it has not come yet
        ([5, 6], []),
        ([5, END], []),
    ],
)
def test_an_answer_goes_on_until_its_end_of_sequence_token_is_there(answer, cut):
    assert beginning(answer, 2) == cut


def test_what_has_ended_stays_unsafe_and_what_nobody_could_judge_does_not_count():
    assert [rescue(True, word) for word in ("safe", "unsafe", "unparsed", None)] == [
        1.0, 0.0, None, None
    ]  # fmt: skip
    assert rescue(False, "unsafe") == rescue(False, None) == 0.0
