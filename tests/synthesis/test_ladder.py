"""The ladder asks until the guard accepts, loses nothing when it is killed, and counts it all."""

import contextlib
import hashlib
import json
from dataclasses import replace

import pytest

from tests.hosts.test_group import together
from tests.support import REPOSITORY
from thinksafe_jax.config import Recipe, SamplingConfig, SynthesisConfig, load_recipe
from thinksafe_jax.config.recipe import Rung
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.guards import Verdict
from thinksafe_jax.hosts import Group
from thinksafe_jax.report import coverage_table
from thinksafe_jax.runs import Part, RowStore, wait_for_rows
from thinksafe_jax.sampling import Completion
from thinksafe_jax.storage import plain
from thinksafe_jax.synthesis import (
    Ledger,
    Rounds,
    attempts,
    dataset_facts,
    reasons_table,
    write_dataset,
)
from thinksafe_jax.synthesis.coverage import coverage
from thinksafe_jax.synthesis.ladder import chosen_attempts

pytestmark = pytest.mark.slow

LADDER = [Rung(), Rung("risk", 0.8), Rung("intent", 1.0)]
CFG = SynthesisConfig(attempts=3, ladder=LADDER, sampling=SamplingConfig(max_new_tokens=8))
PROMPTS = [Prompt(f"{label[0]}{n}", f"{label} {n}", label) for n in range(12)
           for label in ("harmful", "benign")] + [Prompt("empty", " ", "harmful")]  # fmt: skip
ANSWERS = {0: "<think>a</think>ok", 1: "<think>never ends", 2: "<think>a</think><think>b</think>c"}


def chance(text, sides):
    return hashlib.sha256(text.encode()).digest()[0] % sides


class Tokenizer:
    """A prompt is its text, an answer one number."""

    def prompt_ids(self, text):
        return list(text.encode())

    def decode(self, ids):
        return ANSWERS[ids[0]]


class Engine:
    """Answers by the request's name; with `stop_after` it dies half-way."""

    slots = 4

    class stats:  # what the progress line shows
        completions = tokens = active = 0
        seconds = occupancy = 1.0

    def __init__(self, stop_after=None):
        self.seen, self.stop_after = [], stop_after

    def refuses(self, request):
        return "too long" if request.id == "h11" else None

    def generate(self, requests):
        for request in requests:
            if self.stop_after is not None and len(self.seen) == self.stop_after:
                raise KeyboardInterrupt
            self.seen.append(request)
            kind = chance(f"{request.id}/{request.sample}", 5)
            ids = [kind if kind in ANSWERS else 0]
            reason = "length" if kind == 1 else "stop"
            yield Completion(request.id, request.sample, ids, [0.0], reason)


class Guard:
    name, weak, template = "g", False, ""

    def __init__(self):
        self.seen = []

    def judge(self, exchanges):
        for e in exchanges:
            self.seen.append(e.id)
            word = ("safe", "unsafe", "unparsed", "unsafe")[chance(e.id, 4)]
            yield Verdict(e.id, word, None, e.scope, False, self.name)


def climb(folder, cfg=CFG, engine=None, prompts=PROMPTS, max_unparsed=1.0, group=None):
    """One start of a run: reads what is there, makes what is missing."""
    group = group or Group()
    part = Part(group.index, group.count)
    stores = [
        RowStore(folder / name, ("id", "attempt"), writer=part.name)
        for name in ("samples", "verdicts")
    ]
    ledger = Ledger(cfg.reasoning).read(*stores)
    rounds = Rounds(cfg, prompts, Tokenizer(), *stores, ledger, group.check, part, group)
    engine, guard = engine or Engine(), Guard()
    between = None if cfg.method == "rejection" else guard
    rounds.sample(engine, between, max_unparsed)
    wait_for_rows(group, rounds.samples, group.check)
    rounds = replace(rounds, ledger=Ledger(cfg.reasoning).read(*stores))  # the next stage reads
    rounds.judge(guard, max_unparsed)
    wait_for_rows(group, rounds.verdicts, group.check)
    return rounds, engine


def test_k_1_is_the_papers_single_shot():
    (only,) = attempts(SynthesisConfig())
    assert (only.number, only.steering, only.sampling) == (1, "authors", SamplingConfig())


def test_rungs_are_taken_in_turn_and_then_over_again():
    got = [(a.steering, a.sampling.temperature) for a in attempts(SynthesisConfig(
        attempts=4, ladder=LADDER))]  # fmt: skip
    assert got == [("authors", 0.6), ("risk", 0.8), ("intent", 1.0), ("authors", 0.6)]


def test_only_what_was_not_accepted_is_asked_again(tmp_path):
    rounds, engine = climb(tmp_path)
    rows = {(r["id"], r["attempt"]): r for r in rounds.samples.rows()}
    for id, reasons in rounds.ledger.by_prompt().items():
        accepted = [n for n, reason in reasons.items() if reason == ""]
        hopeless = id in ("empty", "h11")
        assert list(reasons) == list(range(1, 1 + (1 if hopeless else min([*accepted, 3]))))
        assert len(accepted) <= 1
    assert {rows[k]["steering"] for k in rows if k[0] == "h0"} <= {"authors", "risk", "intent"}
    assert {r["steering"] for r in rows.values() if r["label"] == "benign"} == {"none"}
    assert {r["temperature"] for (_, n), r in rows.items() if n == 2} - {None} == {0.8}
    assert len(engine.seen) == sum(r["temperature"] is not None for r in rows.values())


def test_what_is_likely_to_take_longest_is_asked_first():
    """By a prompt's earlier responses, else by those of its label; else in the order given."""
    ledger = Ledger("think")
    assert ledger.longest_first(PROMPTS) == PROMPTS
    rows = [("h0", "harmful", 1, 10, "stop"), ("h1", "harmful", 1, 90, "length"),
            ("h1", "harmful", 2, 70, "stop"), ("b0", "benign", 1, 30, "stop"),
            ("empty", "harmful", 1, 0, "")]  # fmt: skip
    for id, label, attempt, tokens, reason in rows:
        row = {"id": id, "label": label, "attempt": attempt, "tokens": tokens}
        ledger.sampled({**row, "response": "<think>a</think>ok", "finish_reason": reason})
    named = {prompt.id: prompt for prompt in PROMPTS}
    asked = [named[id] for id in ("b0", "b1", "h0", "h1", "h2", "h3")]
    order = [prompt.id for prompt in ledger.longest_first(asked)]
    assert order == ["h1", "h2", "h3", "b0", "b1", "h0"]  # 80, the label's 56.7 twice, 30, 30, 10


def test_a_guard_that_cannot_be_read_stops_the_run_before_anything_is_asked_again(tmp_path):
    with pytest.raises(InputError, match=r"guard .* verdicts are unparsed.*--new-verdicts"):
        climb(tmp_path, max_unparsed=0.1)
    assert {r["attempt"] for r in RowStore(tmp_path / "samples").rows()} == {1}
    kept = [r["verdict"] for r in RowStore(tmp_path / "verdicts").rows()]
    assert kept.count("unparsed") > 0.1 * len(kept)


def test_killed_at_every_moment_the_rows_are_the_same(tmp_path):
    """Fault 1: whatever was on the disk is taken up, in the middle of any attempt."""
    whole, _ = climb(tmp_path / "whole")
    expected = sorted(map(str, whole.samples.rows())), sorted(map(str, whole.verdicts.rows()))
    total = len(expected[0])
    for stop in range(0, total, 3):
        folder = tmp_path / f"cut{stop}"
        with pytest.raises(KeyboardInterrupt):
            climb(folder, engine=Engine(stop_after=stop % 20))
        again, _ = climb(folder)
        assert sorted(map(str, again.samples.rows())) == expected[0]
        assert sorted(map(str, again.verdicts.rows())) == expected[1]


@pytest.mark.parametrize("stop", [0, 9, 25])
def test_several_processes_share_the_prompts_and_make_the_same_rows(tmp_path, stop):
    """Whatever was sampled before, by as many processes or by others; nothing is made twice."""
    whole, engine = climb(tmp_path / "whole")
    shared = tmp_path / "shared"
    with contextlib.suppress(KeyboardInterrupt):
        climb(shared, engine=Engine(stop_after=stop))

    def work(group):
        try:
            return climb(shared, group=group)
        except BaseException:
            group.close()  # the others are not to wait for it
            raise

    made = together(work)
    for name in ("samples", "verdicts"):
        rows = RowStore(shared / name, ("id", "attempt"))
        expected = getattr(whole, name).rows()
        assert sorted(map(str, rows.rows())) == sorted(map(str, expected)), name
        assert rows.duplicates == 0
    asked = [len(engine.seen) for _, engine in made]
    assert sum(asked) + stop == len(engine.seen) and max(asked) < sum(asked)


def test_an_attempt_begins_while_the_one_before_it_is_still_running(tmp_path):
    """The queue says that it has nothing yet, and is asked again when there is a verdict."""
    holes = []

    class Slow(Engine):
        def generate(self, requests):
            """Four slots; each window finishes the oldest row."""
            slots = []
            while True:
                while len(slots) < 4 and (request := next(requests, "end")) not in (None, "end"):
                    slots.append(request)
                holes.append(4 - len(slots))
                if not slots:
                    return
                yield from super().generate([slots.pop(0)])

    rounds, engine = climb(tmp_path, engine=Slow())
    order = [request.sample for request in engine.seen]
    assert order != sorted(order) and set(order) == {0, 1, 2}
    assert sum(hole > 0 for hole in holes) < 0.3 * len(holes)
    assert [r["attempt"] for r in rounds.samples.rows()] != sorted(order)


def test_coverage_counts_each_prompt_once(tmp_path):
    rounds, _ = climb(tmp_path)
    judged = list(rounds.verdicts.rows())
    facts = dataset_facts(Recipe(synthesis=CFG), Guard())
    counts, _ = write_dataset(tmp_path, rounds.samples, rounds.ledger, facts, len)
    for label, n in (("harmful", 13), ("benign", 12)):
        count = counts[label]
        assert count.sampled == n
        assert sum(count.accepted_at.values()) == count.accepted
        assert count.accepted + sum(count.dropped.values()) == n
    assert sum(count.verdicts["judged"] for count in counts.values()) == len(judged)
    assert counts["harmful"].dropped["empty_prompt"] == 1
    assert counts["harmful"].dropped["too_long"] == 1
    assert "at attempt 1: " in reasons_table(counts)
    table = coverage_table(plain(counts))
    assert [str(c.header) for c in table.columns][:3] == ["prompts", "asked", "attempt 1"]


def test_rejection_keeps_a_prompt_only_if_all_are_safe(tmp_path):
    """Paper.md 1.2: five samples, all must be accepted, one is drawn."""
    cfg = SynthesisConfig(method="rejection", steering="none", attempts=2)
    rounds, _ = climb(tmp_path, cfg)
    chosen = chosen_attempts(rounds.ledger, "rejection", seed=1)
    for id, reasons in rounds.ledger.by_prompt().items():
        assert (id in chosen) == (not any(reasons.values()))
        assert id in ("empty", "h11") or len(reasons) == 2
    assert chosen == chosen_attempts(rounds.ledger, "rejection", seed=1)
    counts = coverage(rounds.ledger, chosen, ("harmful", "benign"))
    assert sum(c.accepted for c in counts.values()) == len(chosen)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synthesis.attempts=2", "at least the 3 rungs"),
        ("synthesis.attempts=0", "attempts"),
        ("synthesis.ladder=[{temperature: -1}]", r"ladder\[0\]\.temperature"),
        ("synthesis.ladder=[{steer: risk}]", "did you mean synthesis.ladder"),
        ("synthesis.ladder=[{}, {}, {steering: intnt}]", r"ladder\[2\]\.steering.*mean intent\?"),
        ("synthesis.steering='{prompt} {prompt}'", r"steering: .* once"),
    ],
)
def test_ladders_that_make_no_sense_are_refused_before_any_row(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [override])


def test_a_few_rows_say_nothing_of_the_guard(tmp_path):
    """What earlier starts heard counts as well: a resume may have one row left, and that unread."""
    words = climb(tmp_path)[0].ledger.words
    share = words["unparsed"] / words.total()
    (shard,) = (tmp_path / "verdicts").iterdir()
    lines = shard.read_text().splitlines()
    lost = next(n for n, line in enumerate(lines) if json.loads(line)["verdict"] == "unparsed")
    assert len(lines) == words.total() and share < 1
    shard.write_text("".join(f"{line}\n" for n, line in enumerate(lines) if n != lost))
    rounds, _ = climb(tmp_path, max_unparsed=share)
    assert rounds.ledger.words == words
