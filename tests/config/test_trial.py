"""A trial: limits of prompts and questions, and a mark that is part of the recipe."""

from dataclasses import replace

import pytest

from thinksafe_jax.config import Recipe, as_trial, load_recipe, to_yaml
from thinksafe_jax.data import load_questions
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.runs import Run
from thinksafe_jax.storage import content_hash, plain


def test_a_trial_limits_prompts_and_questions_and_says_what_it_is(tmp_path):
    whole = load_recipe("mini")
    trial = as_trial(whole, 5)
    assert (trial.trial, trial.synthesis.limit, trial.evaluation.limit) == (True, 5, 5)
    file = tmp_path / "trial.yaml"
    file.write_text(to_yaml(trial))
    assert load_recipe(file) == trial
    smaller = as_trial(load_recipe("mini", ["synthesis.limit=3", "evaluation.limit=2"]), 5)
    assert (smaller.synthesis.limit, smaller.evaluation.limit) == (3, 2)


def test_a_trial_and_a_whole_run_never_share_a_directory(tmp_path):
    whole = load_recipe("mini")
    with Run.open(as_trial(whole, 5), tmp_path):
        pass
    with pytest.raises(ConfigError, match="trial: True -> False"), Run.open(whole, tmp_path):
        pass


def test_each_suite_keeps_its_first_questions():
    """As the limit of a source and of a suite keep the first rows."""
    whole = load_recipe("mini").evaluation
    every = load_questions(whole).items
    few = load_questions(replace(whole, limit=3)).items
    suites = list(dict.fromkeys(question.suite for question in every))
    assert few == [q for suite in suites for q in [q for q in every if q.suite == suite][:3]]
    if whole.suites:
        suite = replace(whole.suites[0], limit=2)
        both = load_questions(replace(whole, suites=[suite], limit=3)).items
        assert sum(question.suite == suite.name for question in both) == 2


def test_recipes_without_the_keys_keep_their_hashes():
    assert "trial" not in plain(Recipe()) and "limit" not in plain(Recipe().evaluation)
    assert content_hash(Recipe()) != content_hash(replace(Recipe(), trial=True))
