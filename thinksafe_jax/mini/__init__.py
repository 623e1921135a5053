"""The embedded default: a small world in which the paper's effect can be seen in minutes.

It has prompts in three parts (train, validation, held-out), a tiny student, two safe teachers and
a guard (`assets/`, made by scripts/make_mini.py), and an exact judge. What is measured here is
measured on a toy: README.md beside this file says what it can and cannot say."""

from thinksafe_jax.mini.judge import judge, number_of, refuses
from thinksafe_jax.mini.splits import SPLITS, prompts

__all__ = ["SPLITS", "judge", "number_of", "prompts", "refuses"]
