"""Guards: safe, unsafe or unparsed, and never safe by default."""

from thinksafe_jax.guards.batching import bucket_lengths, make_batches
from thinksafe_jax.guards.from_recipe import load_guard
from thinksafe_jax.guards.guard_format import verdict_of
from thinksafe_jax.guards.header_check import check_guard
from thinksafe_jax.guards.matchers.refusal_match import answer_part, is_refusal
from thinksafe_jax.guards.native import score_words
from thinksafe_jax.guards.protocol import (
    Exchange,
    Guard,
    Verdict,
    check_one_template,
    check_unparsed,
)

__all__ = [
    "Exchange",
    "Guard",
    "Verdict",
    "answer_part",
    "bucket_lengths",
    "check_guard",
    "check_one_template",
    "check_unparsed",
    "is_refusal",
    "load_guard",
    "make_batches",
    "score_words",
    "verdict_of",
]
