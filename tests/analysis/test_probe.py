"""A probe deletes nothing, goes on where it was stopped, and recommends what its prompts show."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.support import REPOSITORY
from tests.synthesis import test_ladder
from thinksafe_jax.analysis import probe_table, refusals_line, run_probe, write_plot
from thinksafe_jax.analysis.probe import Probe, recommend
from thinksafe_jax.analysis.probe_arm import Arm
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import PromptSource, Recipe, SamplingConfig, SynthesisConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.intervals import wilson
from thinksafe_jax.sampling.stats import EngineStats
from thinksafe_jax.terminal import output

pytestmark = pytest.mark.slow


class Engine(test_ladder.Engine):
    """Takes half a second for each of its three tokens, and ten seconds to be compiled."""

    stats = EngineStats()

    def generate(self, requests):
        self.stats = EngineStats(seconds=10.0, compile_seconds=10.0)
        for done in super().generate(requests):
            self.stats.tokens += 3
            self.stats.seconds += 1.5
            yield replace(done, token_ids=[*done.token_ids, 0, 0])


def probe(folder, engine, *, samples=1, **options):
    file = folder.parent / "prompts.csv"
    rows = "".join(f"p{n},{label}\n" for n in range(40) for label in ("harmful", "benign"))
    file.write_text("prompt,label\n" + rows.replace("p1,b", "p1b,b"), encoding="utf-8")
    source = PromptSource(str(file), label_column="label", where={"label": "harmful"})
    cfg = SynthesisConfig(prompts=[source], sampling=SamplingConfig(max_new_tokens=8))
    session = SimpleNamespace(guard=test_ladder.Guard())
    session.generator = SimpleNamespace(engine=lambda: engine, tokenizer=test_ladder.Tokenizer())
    options = {"templates": ["risk"], "prompts": 12, "samples": samples, **options}
    return run_probe(Recipe(synthesis=cfg), session, folder, **options)


def test_stopped_and_repeated_it_ends_with_the_same_figures(tmp_path):
    """Hours among them: a start that only takes up rows has no speed of its own."""
    whole = probe(tmp_path / "whole", Engine())
    assert [arm.responses for arm in whole.arms] == [12, 12]
    assert whole.arms[0].flip_rate is None and whole.arms[1].flip_rate.n > 0
    assert whole.arms[0].expected_hours == pytest.approx(40 * 1.5 / 3600)
    with pytest.raises(KeyboardInterrupt):
        probe(tmp_path / "out", Engine(stop_after=17))
    again, none_left = Engine(), Engine()
    assert probe(tmp_path / "out", again) == whole
    assert len(again.seen) == 24 - 17
    assert probe(tmp_path / "out", none_left) == whole
    assert not none_left.seen


@pytest.mark.parametrize(("rescue_at", "reads"), [((), 0), ((1, 2), 1)])
def test_unsafe_answers_are_read_once_and_only_for_rescue_rates(
    tmp_path, monkeypatch, rescue_at, reads
):
    """Two templates and two horizons ask for the same answers."""
    calls = []

    def read(*given):
        calls.append(given)
        return []

    monkeypatch.setattr("thinksafe_jax.analysis.probe.unsafe_answers", read)
    templates = ["risk", "authors"]
    done = probe(tmp_path / "out", Engine(), templates=templates, rescue_at=rescue_at)
    assert len(calls) == reads
    assert [list(arm.rescue_rates) for arm in done.arms if arm.template != "none"] == (
        [[str(n) for n in rescue_at]] * 2
    )


def test_another_question_has_rows_of_its_own(tmp_path):
    """Neither are its rows taken for answers to the other, nor are those lost."""
    first, two, back = Engine(), Engine(), Engine()
    probe(tmp_path / "out", first)
    found = probe(tmp_path / "out", two, samples=2)
    assert [arm.responses for arm in found.arms] == [24, 24]
    assert len(two.seen) == 48
    probe(tmp_path / "out", back)
    assert not back.seen


def test_it_writes_into_no_folder_of_others_and_deletes_nothing(tmp_path):
    run = tmp_path / "runs/mini"
    for name in ("samples", "verdicts"):
        (run / name).mkdir(parents=True)
        (run / name / "part-00000.jsonl").write_text("{}\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    for folder in (run, run.parent):
        with pytest.raises(ConfigError, match="no probe-rows of an earlier probe"):
            probe(folder, Engine())
        (folder.parent / "prompts.csv").unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "command", [["probe", "-c", str(REPOSITORY / "configs/recipes/mini.yaml")],
                ["analyze", "lengths", "mini:student", "--data", "x.json"]],
)  # fmt: skip
def test_a_bucket_is_no_local_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--out", "gs://bucket/x"])
    assert isinstance(done.exception, ConfigError)
    assert "gs://bucket/x: this is written to a disk only" in str(done.exception)
    assert not list(tmp_path.iterdir())


# --- which template is recommended -----------------------------------------------------------


def arm(template, accepted, tokens=1000, n=64, **changes):
    each = tokens / accepted if accepted else None
    settings = {"acceptance": wilson(accepted, n), "tokens_per_accepted": each, **changes}
    return Arm(template, "harmful", n, odds_ratio=None, tokens_per_response=tokens / n,
               reasons={"unsafe": n - accepted}, expected_accepted=0.0, expected_tokens=0.0,
               expected_tokens_to_one=None, expected_hours=None, **settings)  # fmt: skip


def flags(accepted, n=64, first=0):
    return {str(k): [first <= k < first + accepted] for k in range(n)}


def test_where_nothing_is_accepted_nothing_is_recommended():
    best, why = recommend(
        [arm("none", 0), arm("risk", 0, tokens=1)], {"none": flags(0), "risk": flags(0)}
    )
    assert best is None
    assert why == "nothing was accepted under any template (unsafe 128)"


def test_the_same_prompts_decide_though_the_intervals_overlap():
    """30 and 40 of 64, at fewer tokens a row without steering."""
    arms = [arm("none", 30, tokens=300), arm("risk", 40)]
    assert arms[0].acceptance.high > arms[1].acceptance.low
    # all that is accepted without is accepted with it, and ten more
    best, why = recommend(arms, {"none": flags(30), "risk": flags(40)})
    assert (best, why) == (
        "risk", "on the same prompts every other accepts fewer (risk 62.5%, 25 tokens for an "
        "accepted row)",
    )  # fmt: skip
    # other prompts each: it may be chance, and the cost decides
    best, why = recommend(arms, {"none": flags(30, first=34), "risk": flags(40)})
    assert best == "none"
    assert why.startswith("10 tokens for an accepted row, the fewest among those that the same")
    assert "(none 46.9%, risk 62.5%)" in why


# --- what is shown ---------------------------------------------------------------------------


def test_a_text_of_the_users_own_is_shown_as_it_is(tmp_path):
    """Brackets are no markup, dollars no formula, and an escape moves no cursor."""
    own = "[/INST] $x\n\x1b[2J {prompt} $^"
    found = Probe([arm(own, 0)], None, "", "student", "[guard]", {"harmful": 64}, {"harmful": 9}, 1)
    console = output(150)
    with console.capture() as shown:
        console.print(probe_table(found))
    assert "[/INST] $x {prompt} $^" in shown.get()
    assert "[guard]" in shown.get()
    assert write_plot(found, tmp_path / "probe.png").stat().st_size > 5_000


def test_refusals_among_safe_answers_to_benign_prompts_are_said():
    harmful, refuse = arm("none", 40), wilson(12, 60)
    benign = replace(arm("none", 60), label="benign", refusals=refuse)
    rest = (None, "", "student", "guard", {"harmful": 64}, {"harmful": 9}, 1)
    line = refusals_line(Probe([harmful, benign], *rest))
    assert line.startswith("of 60 safe answers to benign prompts, 20.0 % (")
    assert line.endswith("synthesis.benign_refusals")
    few = Probe([harmful, replace(benign, refusals=wilson(1, 60))], *rest)
    assert refusals_line(few).endswith("refuse, 95 %")
    assert refusals_line(Probe([harmful], *rest)) == ""
