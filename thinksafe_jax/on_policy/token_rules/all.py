"""Every token of a rollout (OPSA, arXiv 2605.15239)."""

from thinksafe_jax.on_policy.token_rules import Rule
from thinksafe_jax.tokenizer import ChatTokenizer


def all_tokens(tokenizer: ChatTokenizer) -> Rule | None:
    """No rule: nothing needs to be known of the likeliest tokens."""
    del tokenizer
    return None


RULE = all_tokens
