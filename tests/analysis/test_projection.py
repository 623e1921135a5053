"""The projection against truths: a small world that is enumerated, and the mini student."""

import itertools
import math

import numpy as np
import pytest

from tests.support import REPOSITORY
from thinksafe_jax import mini
from thinksafe_jax.analysis.likelihood import log_probabilities
from thinksafe_jax.analysis.projection import Draws, projection, tilt_ratios
from thinksafe_jax.analysis.projection_draws import draw, prompts_of, scored
from thinksafe_jax.config import SamplingConfig, load_recipe
from thinksafe_jax.pipeline import Session
from thinksafe_jax.sampling import Request
from thinksafe_jax.synthesis import steer

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "configs/recipes/mini.yaml"


class World:
    """Eight responses, of which the first three pass the filter."""

    def __init__(self, seed: int, omega: float | None = None):
        rng = np.random.default_rng(seed)
        self.passes = np.arange(8) < 3
        self.base = rng.dirichlet(np.full(8, 2.0))
        tilted = np.where(self.passes, (omega or 1.0) * self.base, self.base)
        # without omega: another source altogether, which no tilt explains
        self.source = tilted / tilted.sum() if omega else rng.dirichlet(np.full(8, 2.0))

    def alpha(self, p: np.ndarray) -> float:
        return float(p[self.passes].sum())

    @property
    def excess(self) -> float:
        """KL(source+ || base+), by enumeration."""
        s, b = (p[self.passes] / self.alpha(p) for p in (self.source, self.base))
        return float((s * np.log(s / b)).sum())

    def draws(self, seed: int, n: int) -> Draws:
        rng = np.random.default_rng(seed)
        base, source = (rng.choice(len(p), size=n, p=p) for p in (self.base, self.source))
        kept = source[self.passes[source]]
        logs = [list(np.log(p[kept])) for p in (self.source, self.base)]
        return Draws("x", "harmful", list(self.passes[base]), list(self.passes[source]), *logs)


@pytest.mark.parametrize(("world", "omega"), [(0, None), (1, None), (2, 6.0), (3, 20.0)])
def test_intervals_cover_the_enumerated_truth_as_often_as_they_say(world, omega):
    truth = World(world, omega)
    covered = {"alpha_ref": 0, "alpha_source": 0, "excess_kl": 0, "omega": 0}
    odds = [a / (1 - a) for a in (truth.alpha(truth.base), truth.alpha(truth.source))]
    values = {
        "alpha_ref": truth.alpha(truth.base),
        "alpha_source": truth.alpha(truth.source),
        "excess_kl": truth.excess,
        "omega": odds[1] / odds[0],
    }
    for seed in range(40):
        found = projection([truth.draws(seed, 200)])["labels"]["harmful"]
        for name, value in values.items():
            rate = found[name]
            high = math.inf if rate["high"] is None else rate["high"]
            covered[name] += rate["low"] - 1e-9 <= value <= high + 1e-9
    # 40 intervals of 95 %: fewer than 33 covering happen with probability below 1e-3
    assert min(covered.values()) >= 33, covered


def test_a_pure_tilt_has_no_excess_and_costs_what_the_corollary_says():
    truth = World(5, omega=19.0)
    assert truth.excess == pytest.approx(0, abs=1e-12)
    alpha = truth.alpha(truth.base)
    cost, _ = tilt_ratios(alpha, 19.0)
    assert cost == pytest.approx(alpha / truth.alpha(truth.source))
    assert tilt_ratios(0.05, 19.0)[1] == pytest.approx(2 / 380)  # the paper's example: 190 x


def test_a_prompt_without_an_accepted_draw_is_counted_not_imputed():
    none = Draws("x", "harmful", [False] * 10, [True] * 10, [-1.0] * 10, [-2.0] * 10)
    found = projection([none])
    assert found["labels"]["harmful"]["no_estimate"] == 1
    assert found["labels"]["harmful"]["excess_kl"]["value"] is None
    assert found["prompts"][0]["minus_log_alpha_ref"]["value"] is None  # infinite
    assert found["prompts"][0]["minus_log_alpha_ref"]["low"] > 0


# the mini student: its own responses to one prompt as a world, with their exact probabilities


@pytest.fixture(scope="module")
def session():
    return Session(load_recipe(RECIPE, ["synthesis.sampling.max_new_tokens=96"]))


@pytest.fixture(scope="module")
def student(session):
    """(probability under the student, under the steered student, passes) of distinct responses."""
    cfg, prompt = session.recipe.synthesis, prompts_of(session, 1)[0]
    texts = (prompt.text, steer(cfg.steering, prompt.text, prompt.label))
    heads = [session.tokenizer.prompt_ids(text) for text in texts]
    free = SamplingConfig(1.0, 1.0, 0, 0.0, cfg.sampling.max_new_tokens)
    asked = [Request(f"world/{n}", h, free, k) for n, h in enumerate(heads) for k in range(64)]
    found = {tuple(c.token_ids): c for c in session.engine().generate(asked)}
    done = [c for c in found.values() if c.finish_reason == "stop"]
    logs = [
        [
            float(v.sum())
            for v in log_probabilities(
                session.params, session.cfg, [scored(session, head, c) for c in done]
            )
        ]
        for head in heads
    ]
    passes = [
        mini.judge(prompt.text, session.tokenizer.decode(c.token_ids)) == "safe" for c in done
    ]
    return *(np.exp(np.array(row, np.float64)) for row in logs), np.array(passes)


def test_on_mini_it_recovers_the_enumerated_truth(student):
    """The world is what the student really says to a prompt, each response as probable as it is.

    Enumerated: acceptance with and without steering, their odds ratio, and the excess KL.
    """
    truth = World(0)
    truth.base, truth.source, truth.passes = student[0] / student[0].sum(), student[1], student[2]
    truth.source = truth.source / truth.source.sum()
    assert len(truth.base) > 60 and 0 < truth.passes.sum() < len(truth.passes)
    odds = [a / (1 - a) for a in (truth.alpha(truth.base), truth.alpha(truth.source))]
    values = {
        "alpha_ref": truth.alpha(truth.base),
        "alpha_source": truth.alpha(truth.source),
        "omega": odds[1] / odds[0],
        "excess_kl": truth.excess,
    }
    found = projection([truth.draws(7, 400)])["labels"]["harmful"]
    for name, value in values.items():
        high = math.inf if found[name]["high"] is None else found[name]["high"]
        assert found[name]["low"] <= value <= high, (name, value, found[name])


def test_draws_are_judged_and_scored_under_both_prompts(session):
    prompts = prompts_of(session, 1)
    assert [p.label for p in prompts] == ["harmful", "benign"]
    harmful, benign = draw(session, prompts, 4, lambda shown: [True] * len(shown))
    assert len(harmful.base) == len(harmful.source) == len(harmful.log_source) == 4
    assert all(a != b for a, b in zip(harmful.log_source, harmful.log_base, strict=True))
    assert benign.log_source == benign.log_base  # benign prompts are not steered


def test_all_prompts_of_a_world_share_one_table():
    draws = [World(n).draws(n, 50) for n in range(6)]
    found = projection(draws)
    label = found["labels"]["harmful"]
    pooled = list(itertools.chain.from_iterable(d.base for d in draws))
    assert label["alpha_ref"]["value"] == pytest.approx(np.mean(pooled))
    assert label["prompts"] == 6 and len(found["prompts"]) == 6
    assert label["excess_kl"]["low"] < label["excess_kl"]["value"] < label["excess_kl"]["high"]
