"""The recipe: what a run is told to do. Frozen dataclasses, read strictly from YAML."""

from thinksafe_jax.config.compare import HARMLESS_KEYS, diff, paper_differences, to_yaml
from thinksafe_jax.config.load import load_recipe
from thinksafe_jax.config.rules import validate
from thinksafe_jax.config.schema import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    GuardModel,
    ModelSource,
    PromptSource,
    Recipe,
    Rung,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
    TrainingConfig,
)

__all__ = [
    "HARMLESS_KEYS",
    "EngineConfig",
    "EvaluationConfig",
    "GuardConfig",
    "GuardModel",
    "ModelSource",
    "PromptSource",
    "Recipe",
    "Rung",
    "SamplingConfig",
    "SuiteConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "diff",
    "load_recipe",
    "paper_differences",
    "to_yaml",
    "validate",
]
