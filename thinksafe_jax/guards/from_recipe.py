"""From a recipe's section to a guard: loaded, connected to, or put together from its members."""

from pathlib import Path

from thinksafe_jax.config import GuardConfig, GuardModel
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.guards.majority import Majority
from thinksafe_jax.guards.matchers import MATCHERS
from thinksafe_jax.guards.native import NativeGuard
from thinksafe_jax.guards.protocol import Guard
from thinksafe_jax.guards.served import HttpGuard
from thinksafe_jax.sharding import MeshConfig, load_mesh
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import resolve_model


def load_guard(
    cfg: GuardConfig | GuardModel, revisions: Path | None = None, mesh: MeshConfig | None = None
) -> Guard:
    """The guard of a recipe: loaded, connected to, or put together from its members.

    Args:
        revisions: file of the run that keeps the commits of its models, see `resolve_model`.
        mesh: of a guard that names none itself; see `NativeGuard.from_directory`.

    Raises:
        ConfigError: unknown kind or dtype.
        InputError, EnvironmentFault: the checkpoint is missing, broken, or no such guard.
        RetryLater: its server does not answer.
    """
    if isinstance(cfg, GuardConfig) and cfg.kind == "majority":
        return Majority([load_guard(member, revisions, mesh) for member in cfg.members])
    if cfg.kind in MATCHERS:
        return MATCHERS[cfg.kind]()
    if cfg.kind not in FORMATS:
        kinds = (*FORMATS, *MATCHERS, "majority")
        raise ConfigError(
            f"guard.kind is {quoted(cfg.kind)}{did_you_mean(cfg.kind, kinds)} (choose from "
            f"{', '.join(kinds)})"
        )
    if cfg.url:
        asks_by_chat = cfg.api == "chat"  # the server's own template and tokenizer, then
        folder = None if asks_by_chat else resolve_model(cfg.model, cfg.revision, revisions)
        return HttpGuard(cfg, folder and ChatTokenizer(folder))
    if not cfg.model:
        raise ConfigError(f"guard.model is empty; a {cfg.kind} needs a checkpoint or a url")
    if cfg.dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"guard.dtype is {quoted(cfg.dtype)}; choose float32 or bfloat16")
    folder = resolve_model(cfg.model, cfg.revision, revisions)
    mesh = load_mesh(cfg.mesh) if cfg.mesh else mesh
    return NativeGuard.from_directory(folder, cfg, mesh=mesh)
