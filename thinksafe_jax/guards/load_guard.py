"""From a recipe's section to a guard: loaded, connected to, or put together from its members."""

from pathlib import Path

from thinksafe_jax.config import GuardConfig, GuardModel
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards.protocol import Guard
from thinksafe_jax.guards.refusal_match import RefusalMatch


def load_guard(
    cfg: GuardConfig | GuardModel, pins: Path | None = None, mesh: str | None = None
) -> Guard:
    """The guard of a recipe: loaded, connected to, or put together from its members.

    Args:
        pins: file of the run that keeps the commits of its models, see `resolve_model`.
        mesh: of a guard that names none itself; see `NativeGuard.from_directory`.

    Raises:
        ConfigError: unknown kind or dtype.
        InputError, EnvironmentFault: the checkpoint is missing, broken, or no such guard.
        RetryLater: its server does not answer.
    """
    if isinstance(cfg, GuardConfig) and cfg.kind == "majority":
        from thinksafe_jax.guards.majority import Majority

        return Majority([load_guard(member, pins, mesh) for member in cfg.members])
    if cfg.kind == "refusal-match":
        return RefusalMatch()
    from thinksafe_jax.guards.formats import FORMATS
    from thinksafe_jax.tokenizer import ChatTokenizer
    from thinksafe_jax.weights import resolve_model

    if cfg.kind not in FORMATS:
        known = ", ".join((*FORMATS, "refusal-match", "majority"))
        raise ConfigError(f"guard.kind is {cfg.kind!r}; choose from {known}")
    if cfg.url:
        from thinksafe_jax.guards.served import HttpGuard

        own = None if cfg.api == "chat" else resolve_model(cfg.model, cfg.revision, pins)
        return HttpGuard(cfg, own and ChatTokenizer(own))
    if not cfg.model:
        raise ConfigError(f"guard.model is empty; a {cfg.kind} needs a checkpoint or a url")
    import jax.numpy as jnp

    from thinksafe_jax.guards.native import NativeGuard

    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if cfg.dtype not in dtypes:
        raise ConfigError(f"guard.dtype is {cfg.dtype!r}; choose float32 or bfloat16")
    return NativeGuard.from_directory(
        resolve_model(cfg.model, cfg.revision, pins),
        FORMATS[cfg.kind],
        dtype=dtypes[cfg.dtype],
        mesh=cfg.mesh or mesh,
        name=cfg.model,
        max_length=cfg.max_length,
        batch_tokens=cfg.batch_tokens,
        authors_compat=cfg.authors_compat,
    )
