"""Drafts without a model: where they are found, and when they are worth it."""

import jax
import numpy as np
import pytest

from tests.sampling.kit import GREEDY
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.drafting import LATEST_PROMPTS, Drafting, draft_shape
from thinksafe_jax.sampling.drafts import NOTHING, DraftShape, passes_with_drafts, propose
from thinksafe_jax.sampling.stats import EngineStats

SHAPE = DraftShape(count=3, references=8, context=24)
LONGEST = 44  # tokens of a text
PROPOSE = jax.jit(propose, static_argnums=2)


def draft(text, beyond=()):
    """The draft of three for one text, as a list; `beyond` lies behind its end."""
    history = np.full((1, LONGEST), NOTHING, np.int32)
    history[0, : len(text) + len(beyond)] = [*text, *beyond]
    return PROPOSE(history, np.array([len(text)], np.int32), 3)[0].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], [3, 4, 5]),
        ([7, 1, 2, 8, 9, 9, 1, 2, 5, 9, 9, 7, 1, 2], [8, 9, 9]),  # "7 1 2" is longer than "1 2"
        ([1, 2, 3, 3, 1, 2, 4, 4, 1, 2], [4, 4, 1]),  # as long as another, and newer
        ([5, 6, 5, 6, 5], [6, 5, 6]),  # what repeats goes on repeating
        ([4, 4], [4, 4, 4]),
        ([1, 2, 3], [NOTHING] * 3),
        ([1], [NOTHING] * 3),
    ],
)
def test_a_draft_is_what_followed_the_longest_run_of_last_tokens(text, expected):
    assert draft(text) == expected


def test_texts_beside_each_other_do_not_run_into_each_other():
    """A run ends where another text begins, and "no token" is no token of a draft's."""
    assert draft([NOTHING, 1, 5, 6, 7, NOTHING, 1]) == [5, 6, 7]
    assert draft([9, NOTHING, 1, 2, 3, NOTHING, 1, 2]) == [3, NOTHING, 1]
    assert draft([3, NOTHING, 3, NOTHING]) == [NOTHING] * 3


def test_what_lies_beyond_the_end_is_not_looked_at():
    text = [1, 2, 3, 1]
    assert draft(text, beyond=[8, 3, 1, 9]) == draft(text) == [2, 3, 1]


@pytest.mark.slow
def test_passes_are_counted_as_if_each_draft_were_tried():
    rng = np.random.default_rng(0)
    history = rng.integers(0, 4, (6, 40)).astype(np.int32)
    first, end = (
        np.array([2, 5, 9, 1, 30, 7], np.int32),
        np.array([40, 33, 9, 20, 31, 39], np.int32),
    )
    expected = []
    for row in range(6):
        at, passes = int(first[row]), 0
        while at < end[row]:
            guess = draft(history[row, :at].tolist())
            right = 0
            while right < 3 and at + right < end[row] and guess[right] == history[row, at + right]:
                right += 1
            at, passes = at + right + 1, passes + 1
        expected.append(passes)
    counted = jax.jit(passes_with_drafts, static_argnums=3)(history, first, end, 3)
    assert counted.tolist() == expected


def test_a_history_holds_other_texts_before_the_own():
    """Those of the same prompt are nearer than those of its kind; what does not fit is cut off."""
    drafting = Drafting("auto", SHAPE, "tpu")
    own, other = (Request(id, [1], GREEDY, kind="harmful") for id in ("own", "other"))
    drafting.finished(own, [21, 22])
    drafting.finished(other, [31, 32, 33])
    drafting.finished(Request("third", [1], GREEDY, kind="benign"), [41])
    texts = drafting.histories([(own, [1, 5])], 2)
    assert texts.shape == (2, 32)
    assert texts[0, :10].tolist() == [-1, 31, 32, 33, -1, 21, 22, -1, 1, 5]
    assert (texts[0, 10:] == NOTHING).all() and (texts[1] == NOTHING).all()
    drafting.finished(other, list(range(50, 60)))
    assert drafting.histories([(own, [1])], 1)[0, :8].tolist() == [56, 57, 58, 59, -1, 21, 22, -1]


def test_texts_of_a_long_queue_are_kept_of_its_latest_prompts_alone():
    drafting = Drafting("auto", SHAPE, "tpu")
    asked = [Request(f"row-{n}", [1], GREEDY, kind=str(n % 2)) for n in range(LATEST_PROMPTS + 50)]
    for n, request in enumerate(asked):
        drafting.finished(request, [n])
    assert list(drafting._of_prompt) == [request.id for request in asked[50:]]
    first, last = drafting.histories([(asked[50], [1]), (asked[-1], [1])], 2)[:, :8].tolist()
    assert first[-2:] == [50, NOTHING] and last[-2:] == [LATEST_PROMPTS + 49, NOTHING]


def test_drafts_are_taken_where_they_save_more_than_they_cost():
    """Two tokens a pass are worth it for a few rows of an accelerator, not for hundreds."""
    drafting = Drafting("auto", SHAPE, "tpu")
    assert not drafting.wanted(1)  # nothing is known yet
    drafting.measure(tokens=200, passes=100)
    assert drafting.tokens_per_pass == 2
    assert [drafting.wanted(rows) for rows in (1, 16, 64, 128, 256)] == [True] * 3 + [False] * 2
    assert drafting.cost(240) == 2.5  # the weights once, and rows for another 4 times half of that
    drafting.measure(tokens=5000, passes=4990)
    assert not drafting.wanted(1)
    assert Drafting("always", SHAPE, "tpu").wanted(256)


def test_a_history_has_room_for_others_up_to_the_length_of_a_row():
    assert draft_shape(5, 256) == DraftShape(5, 256, 256)
    assert draft_shape(3, 16_384).references == 2048


def test_the_summary_says_what_came_of_it():
    assert "drafts" not in str(EngineStats(tokens=10, windows=2))
    stats = EngineStats(
        tokens=300, windows=9, slot_steps=200, drafted_windows=4, drafted_passes=100, accepted=150,
        replayed_tokens=55, replayed_passes=50,
    )  # fmt: skip
    assert stats.occupancy == 0.75
    assert str(stats).endswith(
        ", drafts in 4 of 9 windows (2.50 tokens a pass), not worth it in the others "
        "(1.10 tokens a pass)"
    )
