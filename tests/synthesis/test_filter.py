"""Which responses are kept from the guard and from training (fault 41, defects D12, D16-D18)."""

import pytest

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.synthesis import drop_reason
from thinksafe_jax.synthesis.filter import DROP_REASONS, row_drop_reason

pytestmark = pytest.mark.slow

GOOD = "<think>\nLet me see.\n</think>\n\nNo."


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (GOOD, None),
        ("<think>\n\n</think>\n\nNo.", None),
        ("", "no_think_close"),
        ("No reasoning at all.", "no_think_close"),
        ("<think>\nNever ends.", "no_think_close"),
        ("Never opened.\n</think>\n\nNo.", "no_think_close"),
        ("</think> wrong order <think>", "no_think_close"),
        ("<think>a</think><think>b</think>\n\nNo.", "several_think_tags"),
        ("<think>a</think>b</think>\n\nNo.", "several_think_tags"),
        ("<think><think>a</think>\n\nNo.", "several_think_tags"),
        ("<think>\na\n</think>", "empty_answer"),
        ("<think>\na\n</think> \n\t\n", "empty_answer"),
    ],
)
def test_reasoning_must_be_one_closed_block_with_an_answer(response, reason):
    assert drop_reason(response, "stop", "think") == reason
    assert reason is None or reason in DROP_REASONS


@pytest.mark.parametrize("response", [GOOD, "<think>\nstill going", "", "half an ans"])
def test_truncated_comes_first(response):
    assert drop_reason(response, "length", "think") == "truncated"


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_without_reasoning_any_text_will_do_cut_or_not(finish_reason):
    assert drop_reason("Boil it.", finish_reason, "none") is None
    assert drop_reason(" \n", "stop", "none") == "empty_answer"


def test_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="reasoning is 'thinking'"):
        drop_reason(GOOD, "stop", "thinking")


def test_rows_that_were_never_sampled_keep_their_own_reason():
    row = {"response": "", "finish_reason": "", "dropped": "too_long"}
    assert row_drop_reason(row, "think") == "too_long"
    assert row_drop_reason({"response": GOOD, "finish_reason": "stop"}, "think") is None
