"""The recipe: what a run is told to do. Frozen dataclasses, read strictly from YAML."""

from thinksafe_jax.config.checks import validate
from thinksafe_jax.config.differences import HARMLESS_KEYS, diff, flat, paper_differences, to_yaml
from thinksafe_jax.config.load import load_recipe
from thinksafe_jax.config.recipe import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    GuardModel,
    ModelSource,
    PromptSource,
    Recipe,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.config.strict import build, nearest

__all__ = [
    "HARMLESS_KEYS",
    "EngineConfig",
    "EvaluationConfig",
    "GuardConfig",
    "GuardModel",
    "ModelSource",
    "PromptSource",
    "Recipe",
    "SamplingConfig",
    "SuiteConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "build",
    "diff",
    "flat",
    "load_recipe",
    "nearest",
    "paper_differences",
    "to_yaml",
    "validate",
]
