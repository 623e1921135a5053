"""ThinkSafe in JAX: self-generated safety data and LoRA training for reasoning models.

    from thinksafe_jax import Engine, Request, SamplingConfig

A name of this door is imported when it is first asked for (PEP 562), so that `import thinksafe_jax`
takes milliseconds; no import here starts a JAX back end.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinksafe_jax.errors import did_you_mean
from thinksafe_jax.version import __version__

if TYPE_CHECKING:
    from thinksafe_jax.config import (
        EngineConfig,
        Recipe,
        SamplingConfig,
        TrainingConfig,
        load_recipe,
    )
    from thinksafe_jax.errors import ThinkSafeError
    from thinksafe_jax.guards import Guard, Verdict, load_guard
    from thinksafe_jax.models import LoraConfig, ModelConfig, forward, init_params, load_config
    from thinksafe_jax.nnx import CausalLM
    from thinksafe_jax.pipeline import run_pipeline
    from thinksafe_jax.sampling import Completion, Engine, Request
    from thinksafe_jax.sharding import ModelMesh, load_mesh
    from thinksafe_jax.tokenizer import ChatTokenizer
    from thinksafe_jax.weights import (
        export_adapter,
        import_adapter,
        load_params,
        resolve_model,
        save_checkpoint,
    )

# the folder that hands out each name; a test compares with the imports above
_FOLDERS = {
    "config": ["EngineConfig", "Recipe", "SamplingConfig", "TrainingConfig", "load_recipe"],
    "errors": ["ThinkSafeError"],
    "guards": ["Guard", "Verdict", "load_guard"],
    "models": ["LoraConfig", "ModelConfig", "forward", "init_params", "load_config"],
    "nnx": ["CausalLM"],
    "pipeline": ["run_pipeline"],
    "sampling": ["Completion", "Engine", "Request"],
    "sharding": ["ModelMesh", "load_mesh"],
    "tokenizer": ["ChatTokenizer"],
    "weights": [
        "export_adapter",
        "import_adapter",
        "load_params",
        "resolve_model",
        "save_checkpoint",
    ],
}
_FOLDER_OF = {name: folder for folder, names in _FOLDERS.items() for name in names}

__all__ = [
    "CausalLM",
    "ChatTokenizer",
    "Completion",
    "Engine",
    "EngineConfig",
    "Guard",
    "LoraConfig",
    "ModelConfig",
    "ModelMesh",
    "Recipe",
    "Request",
    "SamplingConfig",
    "ThinkSafeError",
    "TrainingConfig",
    "Verdict",
    "__version__",
    "export_adapter",
    "forward",
    "import_adapter",
    "init_params",
    "load_config",
    "load_guard",
    "load_mesh",
    "load_params",
    "load_recipe",
    "resolve_model",
    "run_pipeline",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _FOLDER_OF:
        near = did_you_mean(name, _FOLDER_OF)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{near}", name=name)
    value = getattr(import_module(f"{__name__}.{_FOLDER_OF[name]}"), name)
    globals()[name] = value  # next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
