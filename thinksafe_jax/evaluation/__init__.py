"""Safety and reasoning suites, answer checking, intervals."""

from thinksafe_jax.evaluation.answers import Checked, check_answer
from thinksafe_jax.evaluation.evaluate import evaluate
from thinksafe_jax.evaluation.statistics import Rate, difference, wilson

__all__ = ["Checked", "Rate", "check_answer", "difference", "evaluate", "wilson"]
