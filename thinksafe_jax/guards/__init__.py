"""Guards: safe, unsafe or unparsed, and never safe by default."""

from pathlib import Path

from thinksafe_jax.config import GuardConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards.protocol import Exchange, Guard, Verdict, check_unparsed
from thinksafe_jax.guards.refusal_match import RefusalMatch, answer_part, is_refusal

__all__ = [
    "Exchange",
    "Guard",
    "Verdict",
    "answer_part",
    "check_unparsed",
    "is_refusal",
    "load_guard",
]


def load_guard(cfg: GuardConfig, pins: Path | None = None) -> Guard:
    """The guard of a recipe, its weights loaded.

    Args:
        pins: file of the run that keeps the commits of its models, see `resolve_model`.

    Raises:
        ConfigError: unknown kind or dtype.
        InputError, EnvironmentFault: the checkpoint is missing, broken, or no such guard.
    """
    if cfg.kind == "refusal-match":
        return RefusalMatch()
    if cfg.kind != "llama-guard":
        raise ConfigError(f"guard.kind is {cfg.kind!r}; choose llama-guard or refusal-match")
    if not cfg.model:
        raise ConfigError("guard.model is empty; a llama-guard needs a checkpoint")
    import jax.numpy as jnp

    from thinksafe_jax.guards.llama_guard import LlamaGuard
    from thinksafe_jax.weights import resolve_model

    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if cfg.dtype not in dtypes:
        raise ConfigError(f"guard.dtype is {cfg.dtype!r}; choose float32 or bfloat16")
    return LlamaGuard.from_directory(
        resolve_model(cfg.model, cfg.revision, pins),
        name=cfg.model,
        dtype=dtypes[cfg.dtype],
        max_length=cfg.max_length,
        batch_tokens=cfg.batch_tokens,
    )
