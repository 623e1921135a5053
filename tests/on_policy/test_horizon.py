"""The horizon: rollouts grow while the teacher rescues longer ones, and resume as they were."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.on_policy import kit
from thinksafe_jax.config import HorizonConfig, Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.hosts import Group
from thinksafe_jax.on_policy.horizon import Horizon
from thinksafe_jax.on_policy.rollouts import Asked, Draw

LENGTHS = [2, 4, 8]
PROMPTS = [
    Prompt(f"{label[0]}{n}", "p", label) for n in range(8) for label in ("harmful", "benign")
]
GUIDED = [1, 1, 1, 1]  # longer than what the student reads
ADAPTER, LATER = ({"a": np.full(2, value, np.float32)} for value in (1.0, 2.0))


def recipe(**horizon) -> Recipe:
    made = kit.recipe(method="self-distillation")
    settings = {"lengths": LENGTHS, "every": 10, "unsafe": 4, "rescued": 0.75, **horizon}
    sampling = replace(made.on_policy.sampling, max_new_tokens=8)
    changed = replace(made.on_policy, sampling=sampling, horizon=HorizonConfig(**settings))
    return replace(made, on_policy=changed)


def horizon(folder, rescued, engine=None, **changes):
    """Every answer is unsafe; after n tokens the teacher turns `rescued[n]` of eight around."""
    guard, made = kit.Guard(), recipe(**changes)

    def say(request):
        if len(request.prompt_ids) == 1:
            return "ooooooooox"  # ten letters
        said = len(request.prompt_ids) - len(GUIDED)
        number = int(request.id.rpartition("h")[2])
        return "no" if number < rescued[said] else "x"

    engine = engine or kit.Engine(say)
    sampler = kit.sampler(folder, engine, guard, made)
    ids = {prompt.id: [0] for prompt in PROMPTS}
    lines = []
    made = Horizon(made, PROMPTS, ids, sampler, lambda r: GUIDED, lambda *_, **v: lines.append(v))
    return made, engine, guard, lines


def test_without_lengths_a_rollout_is_as_long_as_the_recipe_says(tmp_path):
    made, engine, _, _ = horizon(tmp_path, {}, lengths=[])
    assert made.tokens(100, ADAPTER) == 8 and not engine.asked


def test_it_grows_to_the_longest_length_that_is_rescued_often_enough(tmp_path):
    """Six of eight are the bound: 2 and 4 tokens reach it, 8 do not."""
    made, engine, guard, lines = horizon(tmp_path, {2: 8, 4: 6, 8: 5})
    assert [made.tokens(step, ADAPTER) for step in (0, 9)] == [2, 2] and not engine.asked
    assert made.tokens(10, ADAPTER) == 4
    assert lines == [
        {"step": 10, "unsafe": 8, "rescued 2": 1.0, "rescued 4": 0.75, "rescued 8": 0.625}
    ]
    assert engine.adapter is None  # the teacher is the untrained model; the step sets its own
    answers, ends = engine.asked[:8], engine.asked[8:]
    assert all(request.sampling.max_new_tokens == 4096 for request in answers)
    assert ends[0].prompt_ids == [*GUIDED, *map(ord, "oo")]
    assert all(request.sampling.max_new_tokens == 2048 for request in ends)
    # the cut beginning is part of what is judged
    assert {e.response for e in guard.seen if e.response.endswith("no")} == {
        "oono", "oooono", "oooooooono"
    }  # fmt: skip


def test_it_is_never_shorter_again(tmp_path):
    rescued = {2: 8, 4: 8, 8: 0}
    made, engine, _, _ = horizon(tmp_path, rescued)
    assert made.tokens(10, ADAPTER) == 4
    rescued[4] = rescued[2] = 0
    assert made.tokens(20, LATER) == 4
    rescued[8] = 8
    assert made.tokens(30, ADAPTER) == 8
    asked = len(engine.asked)
    assert made.tokens(40, LATER) == 8  # as long as can be: nothing is left to measure
    assert len(engine.asked) == asked


def test_with_few_unsafe_answers_it_stays(tmp_path):
    made, engine, _, lines = horizon(tmp_path, {2: 8, 4: 8, 8: 8}, unsafe=9)
    assert made.tokens(10, ADAPTER) == 2
    assert len(engine.asked) == 8 and lines[0]["rescued 4"] is None


def test_an_answer_that_has_ended_by_then_is_not_rescued(tmp_path):
    engine = kit.Engine(lambda request: "oox" if len(request.prompt_ids) == 1 else "no")
    made, _, _, lines = horizon(tmp_path, {}, engine)
    assert made.tokens(10, ADAPTER) == 2
    assert (lines[0]["rescued 2"], lines[0]["rescued 4"]) == (1.0, 0.0)


def test_other_prompts_are_asked_at_each_measurement(tmp_path):
    made, engine, _, _ = horizon(tmp_path, {2: 0, 4: 0, 8: 0}, prompts=4)
    made.tokens(10, ADAPTER)
    made.tokens(20, LATER)
    answers = [r.id for r in engine.asked if len(r.prompt_ids) == 1]
    assert {id.partition("/")[0] for id in answers[:4]} == {"horizon-000010"}
    assert {id.rpartition("/")[2] for id in answers[:4]} != {
        id.rpartition("/")[2] for id in answers[4:]
    }
    assert not any("/b" in id for id in answers)


def test_a_resumed_run_reads_what_was_measured(tmp_path):
    rescued = {2: 8, 4: 6, 8: 5}
    first, _, _, _ = horizon(tmp_path, rescued)
    lengths = [first.tokens(step, ADAPTER) for step in (10, 15)]
    again, engine, _, _ = horizon(tmp_path, rescued)
    assert [again.tokens(15, LATER), again.tokens(10, ADAPTER)] == lengths[::-1]
    assert not engine.asked


@pytest.mark.parametrize("deaths", [3, 8, 11, 20])
def test_a_measurement_that_was_cut_short_is_finished_with_the_same_rates(tmp_path, deaths):
    rescued = {2: 8, 4: 6, 8: 5}
    whole, _, _, lines = horizon(tmp_path / "whole", rescued)
    whole.tokens(10, ADAPTER)
    dying, engine, _, _ = horizon(tmp_path / "cut", rescued)
    say = engine.say

    def die(request):
        if len(engine.asked) > deaths:
            raise KeyboardInterrupt
        return say(request)

    engine.say = die
    with pytest.raises(KeyboardInterrupt):
        dying.tokens(10, ADAPTER)
    again, later, _, finished = horizon(tmp_path / "cut", rescued)
    assert again.tokens(10, ADAPTER) == 4
    assert finished == lines
    assert len(later.asked) == 8 + 3 * 8 - deaths


def test_an_answer_that_the_guard_cannot_read_does_not_count(tmp_path, caplog):
    """One of two is half of them, and `guard.max_unparsed` is not what a measurement asks."""
    made, engine, guard, lines = horizon(tmp_path, {2: 8, 4: 8, 8: 8}, prompts=2, unsafe=2)
    judge, say = guard.judge, engine.say
    ends = iter(["no", "??"] * len(LENGTHS))
    engine.say = lambda r: say(r) if len(r.prompt_ids) == 1 else next(ends)

    def mute(exchanges):
        for verdict, unread in (
            (v, e.response.endswith("?")) for e in exchanges for v in judge([e])
        ):
            yield replace(verdict, verdict="unparsed") if unread else verdict

    guard.judge = mute
    assert made.tokens(10, ADAPTER) == 8
    assert lines == [
        {"step": 10, "unsafe": 2, "rescued 2": 1.0, "rescued 4": 1.0, "rescued 8": 1.0}
    ]
    assert "rescue-000010-2: 1 of 2 verdicts cannot be read" in caplog.text
    again, _, _, _ = horizon(tmp_path, {}, prompts=2, unsafe=2)
    assert again.tokens(15, LATER) == 8


class Recorded(Group):
    """Process 0 of two, whose decisions the other is told."""

    def __init__(self):
        super().__init__()
        self.told = {}

    def decide(self, name, value=None):
        self.told[name] = json.loads(json.dumps(value))
        return value


class Other(Group):
    """Process 1, which is told what process 0 decided."""

    first = False

    def __init__(self, told):
        super().__init__()
        self.told = told

    def decide(self, name, value=None):
        return self.told[name]


def test_a_host_that_does_not_see_the_rates_yet_has_those_of_process_0(tmp_path):
    rescued = {2: 8, 4: 6, 8: 5}
    horizon(tmp_path, rescued)[0].tokens(10, ADAPTER)
    first, blind = horizon(tmp_path, rescued)[0], horizon(tmp_path / "lagging", rescued)[0]
    first.sampler.run.group = Recorded()
    blind.sampler.run.group = Other(first.sampler.run.group.told)
    for step, adapter in ((10, ADAPTER), (15, LATER)):
        assert [made.tokens(step, adapter) for made in (first, blind)] == [4, 4]
    assert not list((tmp_path / "lagging").rglob("*.jsonl*"))  # it measured nothing
    late = horizon(tmp_path / "lagging", rescued)[0]
    late.sampler.run.group = Other(first.sampler.run.group.told)
    assert late.tokens(15, LATER) == 4


def test_a_measurement_that_is_gone_or_of_other_weights_is_refused(tmp_path):
    made, _, _, _ = horizon(tmp_path, {2: 0, 4: 0, 8: 0})
    with pytest.raises(InputError, match="the rescue rates of step 10 are not there"):
        made.tokens(11, ADAPTER)
    made.tokens(10, ADAPTER)
    again, _, _, _ = horizon(tmp_path, {2: 0, 4: 0, 8: 0})
    with pytest.raises(InputError, match="continued with other weights"):
        again.tokens(10, LATER)


def test_rollouts_of_another_length_are_refused(tmp_path):
    """The horizon is part of what a rollout is: its row carries it."""
    engine, made = kit.Engine(lambda request: "ooo"), recipe()
    sampler = kit.sampler(tmp_path, engine, kit.Guard(), made)
    asked = [Asked(PROMPTS[0], 0, [0])]
    draw = Draw("step-000000", "0", asked, made.on_policy.sampling, "hash", 2, {"horizon": 2})
    drawn = sampler.draw(draw)
    assert [r.response for r in sampler.draw(draw)] == [r.response for r in drawn]
    assert len(engine.asked) == 2
    with pytest.raises(InputError, match="horizon of the rollout of h0 is 2, this step has 4"):
        sampler.draw(replace(draw, facts={"horizon": 4}))
