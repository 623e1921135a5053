"""Tokens at which reasoning turns towards or away from harm (EOPSA, arXiv 2609.34519).

Learnt from are positions where the likeliest token of student or teacher

    is a pivot       a word at which a thought changes its course (but, wait, however)
    is of intent     a word that says what the user or the model is about to do (asks, should)
    is of risk       a word that names harm, where the two models differ in what they would say

about 2 tokens in 100. The kinds and the condition are EOPSA's; the word lists are our own and in
English, so in other languages no token may be left: then every token of the rollout is taught.
"""

import numpy as np

from thinksafe_jax.on_policy.token_rules import Rule
from thinksafe_jax.tokenizer import ChatTokenizer

_PIVOT = (
    "but", "wait", "however", "although", "though", "yet", "instead", "actually", "hmm", "hold",
    "alternatively", "nevertheless", "still", "rather", "unless", "otherwise",
)  # fmt: skip
_INTENT = (
    "user", "asks", "asking", "wants", "want", "request", "requests", "intent", "intention",
    "should", "must", "cannot", "can't", "won't", "refuse", "decline", "help", "assist", "comply",
    "provide", "sorry", "apologize", "avoid", "purpose", "goal",
)  # fmt: skip
_RISK = (
    "harm", "harmful", "danger", "dangerous", "risk", "risky", "illegal", "unsafe", "safe",
    "safety", "unethical", "ethical", "violence", "violent", "weapon", "malicious", "abuse",
    "crime", "criminal", "legal", "law", "policy", "guidelines", "inappropriate", "sensitive",
)  # fmt: skip


def safety_tokens(tokenizer: ChatTokenizer) -> Rule:
    """The rule over tables of the vocabulary's ids, bool `[V]` each."""
    pivot, intent, risk = (_table(tokenizer, words) for words in (_PIVOT, _INTENT, _RISK))
    turning = pivot | intent

    def rule(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
        turns = turning[student] | turning[teacher]
        names_risk = (risk[student] | risk[teacher]) & (student != teacher)
        chosen = turns | names_risk
        return chosen if chosen.any() else np.ones_like(chosen)

    return rule


def _table(tokenizer: ChatTokenizer, words: tuple[str, ...]) -> np.ndarray:
    """Which ids spell one of the words, with or without a space and in any case."""
    size = tokenizer.vocab_size
    assert size is not None, "a checkpoint's tokenizer has the config.json beside it"
    spelt = (tokenizer.decode([id], special=True).strip().lower() for id in range(size))
    return np.fromiter((text in words for text in spelt), bool, size)


RULE = safety_tokens
