"""Replies of servers: whatever their shape, reading them raises nothing and invents nothing."""

import math

import pytest

from thinksafe_jax.guards.server_reply import Step, read_reply, step_at


def _step(**changes):
    return {"content": [{"token": "safe", "top_logprobs": [{"token": "safe", **changes}]}]}


def test_both_forms_give_the_same_steps():
    likely = {"safe": math.log(0.75), "unsafe": math.log(0.25)}
    top = [{"token": token, "logprob": value} for token, value in likely.items()]
    chat = {"content": [{"token": "safe", "top_logprobs": top}]}
    plain = {"tokens": ["safe"], "top_logprobs": [likely]}
    for choice in (
        {"message": {"content": "safe"}, "logprobs": chat},
        {"text": "safe", "logprobs": plain},
    ):
        text, (step,) = read_reply({"choices": [choice]})
        assert (text, step.token) == ("safe", "safe")
        assert dict(step.likely) == pytest.approx({"safe": 0.75, "unsafe": 0.25})


@pytest.mark.parametrize(
    "logprobs",
    [[1], 1, "content", {}, {"content": None}, {"content": [1]}, {"content": [{"token": "safe"}]},
     {"content": [{"token": None, "top_logprobs": []}]},
     {"content": [{"token": "safe", "top_logprobs": ["abc"]}]},
     *[_step(logprob=p) for p in (None, "-0.1", 1000, True, math.nan, math.inf, -(10**400))],
     _step(logprob=-0.1, token=None), _step(),
     {"tokens": ["safe"], "top_logprobs": ["abc"]}, {"tokens": ["safe"], "top_logprobs": [None]},
     {"tokens": ["safe"], "top_logprobs": []}, {"tokens": [5], "top_logprobs": [{"safe": -0.1}]}],
)  # fmt: skip
def test_malformed_probabilities_are_none(logprobs):
    choice = {"text": "safe", "logprobs": logprobs}
    assert read_reply({"choices": [choice]}) == ("safe", [])


def test_a_place_is_found_without_counting_white_space():
    steps = [Step(token, ()) for token in ("\n\n", "Safety:", "Un", "safe", "<|end|>")]
    text = "Safety: Unsafe"
    assert step_at(steps, text, text.index("Un")) is steps[2]
    assert step_at(steps, text, 0) is steps[1]
    assert step_at(steps[2:], text, 0) is None
