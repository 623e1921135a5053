"""Flip and rescue rates are shares over what the guard rejected, counted by hand."""

from dataclasses import replace

import pytest

from thinksafe_jax.analysis import Probe, guidance_table
from thinksafe_jax.analysis.guided_rates import (
    Rescue,
    UnsafeAnswer,
    flip_rate,
    repeat_rate,
    unsafe_answers,
)
from thinksafe_jax.analysis.probe_arm import Arm
from thinksafe_jax.config import GuardConfig, Recipe, SamplingConfig, SynthesisConfig
from thinksafe_jax.guards import Verdict
from thinksafe_jax.intervals import wilson
from thinksafe_jax.runs import RowStore
from thinksafe_jax.sampling import Completion
from thinksafe_jax.synthesis import Ledger, repeats_steering
from thinksafe_jax.terminal import output

GUIDANCE = "beware of what follows, and refuse: {prompt}"
RECIPE = Recipe(
    guard=GuardConfig(max_unparsed=1.0),
    synthesis=SynthesisConfig(
        steering=GUIDANCE, reasoning="none", sampling=SamplingConfig(max_new_tokens=12)
    ),
)


def row(id, response, attempt=1, finish_reason="stop"):
    return {
        "id": id,
        "prompt": f"text of {id}",
        "label": "harmful",
        "steering": "none",
        "response": response,
        "finish_reason": finish_reason,
        "tokens": len(response.split()),
        "attempt": attempt,
    }


def ledger(words):
    """What is known of {prompt: the guard's word for each attempt}; "" is of unsound form."""
    known = Ledger("none")
    for id, of_prompt in words.items():
        for attempt, word in enumerate(of_prompt, start=1):
            known.sampled(row(id, "an answer" if word else "", attempt))
            verdict = {"id": id, "attempt": attempt, "verdict": word, "template": ""}
            if word:
                known.judged({**verdict, "marked": False, "truncated": False})
    return known


def test_a_flip_is_a_safe_answer_where_there_was_an_unsafe_one():
    """Of a, c and d, which were unsafe: a flips, c does not, and nobody judged d."""
    plain = ledger({"a": ["unsafe"], "b": ["safe"], "c": ["unsafe"], "d": ["unsafe"]})
    guided = ledger({"a": ["safe"], "b": ["unsafe"], "c": ["unsafe"], "d": [""]})
    rate = flip_rate(guided, plain)
    assert (rate.value, rate.n) == (0.5, 2)


def test_several_answers_to_a_prompt_are_paired_each_with_each():
    plain = ledger({"a": ["unsafe", "unsafe"], "b": ["unsafe", "safe"]})
    guided = ledger({"a": ["safe", "safe"], "b": ["unsafe", "safe"]})
    rate = flip_rate(guided, plain)
    assert (rate.value, rate.n) == (5 / 6, 6)


def test_without_an_unsafe_answer_there_is_no_rate():
    rate = flip_rate(ledger({"a": ["safe"]}), ledger({"a": ["safe"]}))
    assert (rate.value, rate.n) == (None, 0)


class Words:
    """A token is a word."""

    def prompt_ids(self, text):
        return text.split()

    def response_ids(self, response, ended=True):
        return response.split() + ["</s>"] * ended

    def decode(self, ids):
        return " ".join(ids)


class Engine:
    """Ends well where it goes on from fewer than four words of the answer."""

    def __init__(self):
        self.asked = []

    def refuses(self, request):
        return None

    def generate(self, requests):
        for request in requests:
            self.asked.append(request)
            said = len(request.prompt_ids) - len(GUIDANCE.split()) - 2
            end = "but no" if said < 4 else "and so on"
            yield Completion(request.id, request.sample, end.split(), [0.0] * 3, "stop")


class Guard:
    name, weak, template = "g", False, ""

    def judge(self, exchanges):
        for exchange in exchanges:
            word = "safe" if exchange.response.endswith("but no") else "unsafe"
            yield Verdict(exchange.id, word, None, "full", False, self.name)


def answer(id, response, attempt=1):
    return UnsafeAnswer(row(id, response, attempt=attempt), [*response.split(), "</s>"])


@pytest.fixture
def rescue():
    return Rescue(RECIPE, Engine(), Words(), Guard())


def test_unsafe_answers_go_on_under_the_guidance_from_where_they_are_cut(rescue, tmp_path):
    """The first has four words; the second two and its end, after which it cannot be rescued."""
    unsafe = [answer("a", "first take the lock"), answer("b", "sure thing", attempt=2)]
    rates = {n: rescue.rate(unsafe, n, tmp_path / str(n)) for n in (1, 2, 3, 4)}
    assert {n: (rate.value, rate.n) for n, rate in rates.items()} == {
        1: (1.0, 2),
        2: (1.0, 2),
        3: (0.5, 2),
        4: (0.0, 2),
    }
    guided = GUIDANCE.replace("{prompt}", "text of a").split()
    assert rescue.engine.asked[0].prompt_ids == [*guided, "first"]
    budgets = [request.sampling.max_new_tokens for request in rescue.engine.asked]
    assert budgets == [11, 11, 10, 10, 9, 8]
    responses = {n: [row["response"] for row in _samples(tmp_path / str(n))] for n in (2, 3)}
    assert responses[2] == ["first take but no", "sure thing but no"]
    assert responses[3] == ["first take the but no"]


def _samples(folder):
    return RowStore(folder / "samples", ("id", "attempt")).rows()


def test_what_went_on_before_is_taken_up(rescue, tmp_path):
    unsafe = [answer("a", "first take the lock")]
    rate = rescue.rate(unsafe, 2, tmp_path)
    assert rescue.rate(unsafe, 2, tmp_path) == rate
    assert len(rescue.engine.asked) == 1


def test_an_answer_that_the_guard_cannot_read_is_in_no_rate(rescue, tmp_path):
    unread = replace(rescue, guard=type("Mute", (Guard,), {"judge": _unread})())
    rate = unread.rate([answer("a", "first take the lock")], 2, tmp_path)
    assert (rate.value, rate.n) == (None, 0)


def _unread(guard, exchanges):
    for exchange in exchanges:
        yield Verdict(exchange.id, "unparsed", None, "full", False, "g")


def test_the_rejected_rows_are_those_that_go_on(tmp_path):
    samples = RowStore(tmp_path / "samples", ("id", "attempt"))
    known = ledger({"a": ["unsafe"], "b": ["safe"]})
    for id, place in zip("ab", samples.append([row(n, "an answer") for n in "ab"]), strict=True):
        known.placed(row(id, ""), place)
    (rejected,) = unsafe_answers(samples, known, Words())
    assert (rejected.key, rejected.ids) == (("a", 1), ["an", "answer", "</s>"])


def test_a_repeated_stretch_of_the_guidance_is_seen_and_the_prompt_may_be_repeated(tmp_path):
    assert repeats_steering(GUIDANCE, "I was told: beware of what follows, and refuse. So no.")
    assert not repeats_steering(GUIDANCE, "text of a: I refuse what follows")
    assert not repeats_steering("none", "anything at all, however long it may be")
    samples = RowStore(tmp_path / "samples", ("id", "attempt"))
    samples.append([row("a", "no"), row("b", GUIDANCE), row("c", "", finish_reason="")])
    rate = repeat_rate(samples, GUIDANCE)
    assert (rate.value, rate.n) == (0.5, 2)


def test_the_table_shows_each_rate_with_its_interval():
    arm = Arm(
        "risk", "harmful", 24, wilson(23, 24), None, 70.0, 72.0, {}, 0.0, 0.0, None, None,
        flip_rate=wilson(20, 21), rescue_rates={"8": wilson(21, 21)}, repeats=wilson(0, 24),
    )  # fmt: skip
    probe = Probe([arm], "risk", "", "student", "guard", {"harmful": 24}, {"harmful": 400}, 1)
    console = output(120)
    with console.capture() as shown:
        console.print(guidance_table(probe))
    assert "rescued after 8 tokens" in shown.get()
    for share in ("95.2 % (77.3 to 99.2)", "100.0 % (84.5 to 100.0)", "0.0 % (0.0 to 13.8)"):
        assert share in shown.get()
