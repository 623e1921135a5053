"""What of a recipe can only be checked once the facts of a model are known."""

from collections.abc import Iterator, Mapping

from thinksafe_jax.config.recipe import SAMPLED, Recipe
from thinksafe_jax.config.shared_sections import SamplingConfig


def synthesis_samplings(recipe: Recipe) -> dict[str, SamplingConfig]:
    """The sampling options by which the prompts of training are answered, by their key."""
    if recipe.on_policy.method:
        return {"on_policy.sampling": recipe.on_policy.sampling}
    cfg = recipe.synthesis
    return {"synthesis.sampling": cfg.sampling} if cfg.prompts and cfg.method in SAMPLED else {}


def evaluation_samplings(recipe: Recipe, kinds: Mapping[str, str]) -> dict[str, SamplingConfig]:
    """The sampling options by which the evaluation asks the student, by their key.

    Args:
        kinds: of the benchmarks, by their name; a recipe's suite need not say it.
    """
    cfg = recipe.evaluation
    asked = {suite.kind or kinds.get(suite.name, "") for suite in cfg.suites}
    asks_reasoning = bool(cfg.reasoning) or "reasoning" in asked
    asks_others = bool(cfg.harmful or cfg.over_refusal or asked - {"", "reasoning"})
    samplings = {}
    if asks_others or (asks_reasoning and cfg.reasoning_sampling is None):
        samplings["evaluation.sampling"] = cfg.sampling
    if asks_reasoning and cfg.reasoning_sampling is not None:
        samplings["evaluation.reasoning_sampling"] = cfg.reasoning_sampling
    return samplings


def sampling_problems(
    samplings: Mapping[str, SamplingConfig], model: str, vocab_size: int, context: int
) -> Iterator[str]:
    """Why no prompt can be sampled so, one sentence each, beginning with its key.

    Args:
        samplings: from `synthesis_samplings` or `evaluation_samplings`.
        model: what to call it.
        context: tokens of prompt and response: `engine.max_length`, or the model's own.
    """
    for key, sampling in samplings.items():
        if sampling.top_k > vocab_size:
            yield (
                f"{key}.top_k: {sampling.top_k} is above the vocabulary of {model}, {vocab_size} "
                "tokens; 0 switches it off"
            )
        if sampling.max_new_tokens >= context:
            yield (
                f"{key}.max_new_tokens: {sampling.max_new_tokens} leaves no room for a prompt in "
                f"the context of {model}, {context} tokens; lower it (--max-new-tokens, where the "
                "command has it) by as many tokens as the longest prompt has"
            )
