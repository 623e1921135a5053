"""The embedded default: a small world in which the paper's effect can be seen in minutes.

It has prompts, a tiny student and a tiny guard (`assets/`, made by scripts/make_mini.py), and an
exact judge. What is measured here is measured on a toy, honestly: it shows that the method and this
code work, it says nothing about large models."""

from thinksafe_jax.mini.judge import judge, number_of, refuses
from thinksafe_jax.mini.splits import SPLITS, prompts

__all__ = ["SPLITS", "judge", "number_of", "prompts", "refuses"]
