"""Which sampling options a recipe uses: only those are held against the models' facts."""

from dataclasses import replace

from thinksafe_jax.config import (
    EvaluationConfig,
    PromptSource,
    Recipe,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
    evaluation_samplings,
    sampling_problems,
    synthesis_samplings,
)

FILE = [PromptSource("p.jsonl")]
KINDS = {"sums": "reasoning", "insults": "harmful"}
LONG = SamplingConfig(max_new_tokens=1024)


def test_the_synthesis_samples_where_a_model_answers_prompts():
    asked = SynthesisConfig(prompts=FILE)
    assert synthesis_samplings(Recipe(synthesis=asked)) == {"synthesis.sampling": asked.sampling}
    for cfg in (SynthesisConfig(), replace(asked, method="direct-refusal")):
        assert synthesis_samplings(Recipe(synthesis=cfg)) == {}


def test_the_evaluation_samples_by_the_options_of_the_suites_it_has():
    def keys(**changes):
        return sorted(evaluation_samplings(Recipe(evaluation=EvaluationConfig(**changes)), KINDS))

    assert keys() == []
    assert keys(harmful=FILE) == keys(over_refusal=FILE) == ["evaluation.sampling"]
    assert keys(reasoning=FILE) == ["evaluation.sampling"]
    assert keys(reasoning=FILE, reasoning_sampling=LONG) == ["evaluation.reasoning_sampling"]
    assert keys(harmful=FILE, reasoning_sampling=LONG) == ["evaluation.sampling"]
    own = SuiteConfig("mine", kind="reasoning", path="m.jsonl")
    assert keys(suites=[own], reasoning_sampling=LONG) == ["evaluation.reasoning_sampling"]
    # what a benchmark measures need not stand in the recipe
    assert keys(suites=[SuiteConfig("sums")], reasoning_sampling=LONG) == [
        "evaluation.reasoning_sampling"
    ]
    assert keys(suites=[SuiteConfig("insults")]) == ["evaluation.sampling"]
    assert keys(suites=[SuiteConfig("unknown")]) == []


def test_a_response_must_leave_room_for_one_token_of_a_prompt():
    assert not list(sampling_problems({"a": LONG}, "m", 100, context=1025))
    (problem,) = sampling_problems({"a": LONG}, "m", 100, context=1024)
    assert problem.startswith("a.max_new_tokens: 1024 leaves no room for a prompt in the context")
    assert "of m, 1024 tokens" in problem
    (problem,) = sampling_problems({"a": SamplingConfig(top_k=101)}, "m", 100, context=10**6)
    assert problem.startswith("a.top_k: 101 is above the vocabulary of m, 100 tokens")
