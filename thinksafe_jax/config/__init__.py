"""The recipe: what a run is told to do. Frozen dataclasses, read strictly from YAML."""

from thinksafe_jax.config.checks import section_problems, validate
from thinksafe_jax.config.differences import RESUMABLE_KEYS, diff, flat, paper_differences, to_yaml
from thinksafe_jax.config.evaluation_section import EvaluationConfig, SuiteConfig
from thinksafe_jax.config.limits import EachOnce, FolderName, check_limits
from thinksafe_jax.config.load import load_recipe, refuse_problems
from thinksafe_jax.config.model_limits import (
    evaluation_samplings,
    sampling_problems,
    synthesis_samplings,
)
from thinksafe_jax.config.on_policy_section import (
    HorizonConfig,
    OnPolicyConfig,
    PrefixConfig,
    RewardTerm,
)
from thinksafe_jax.config.recipe import (
    SAMPLED,
    EngineConfig,
    GuardConfig,
    GuardModel,
    Recipe,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.config.rollout_server_section import RolloutServerConfig
from thinksafe_jax.config.shared_sections import ModelSource, PromptSource, SamplingConfig
from thinksafe_jax.config.shipped import (
    KINDS,
    copy_config,
    find_config,
    named_configs,
    shipped_configs,
    shipped_path,
    write_new,
)
from thinksafe_jax.config.strict import build
from thinksafe_jax.config.training_sweep import expand_sweep
from thinksafe_jax.config.trial import as_trial
from thinksafe_jax.config.yaml_files import read_yaml

__all__ = [
    "KINDS",
    "RESUMABLE_KEYS",
    "SAMPLED",
    "EachOnce",
    "EngineConfig",
    "EvaluationConfig",
    "FolderName",
    "GuardConfig",
    "GuardModel",
    "HorizonConfig",
    "ModelSource",
    "OnPolicyConfig",
    "PrefixConfig",
    "PromptSource",
    "Recipe",
    "RewardTerm",
    "RolloutServerConfig",
    "SamplingConfig",
    "SuiteConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "as_trial",
    "build",
    "check_limits",
    "copy_config",
    "diff",
    "evaluation_samplings",
    "expand_sweep",
    "find_config",
    "flat",
    "load_recipe",
    "named_configs",
    "paper_differences",
    "read_yaml",
    "refuse_problems",
    "sampling_problems",
    "section_problems",
    "shipped_configs",
    "shipped_path",
    "synthesis_samplings",
    "to_yaml",
    "validate",
    "write_new",
]
