"""The facts of a model by name, without its weights."""

from pathlib import Path
from typing import Any

import yaml

from thinksafe_jax.config import find_config, named_configs
from thinksafe_jax.errors import ConfigError, ThinkSafeError, first_line
from thinksafe_jax.json_files import read_json_object, read_text
from thinksafe_jax.models import ModelConfig, load_config, parse_config
from thinksafe_jax.weights import download_config, is_hub_id, resolve_model


def find_model(name: str) -> tuple[str, ModelConfig]:
    """What to call the model, and its facts: from a file where there is one, else from the Hub.

    Args:
        name: a checkpoint directory, a config.json (under any name), `mini:student`, the name of a
            file in configs/models, or a Hub id. Models that such a file describes need no network.

    Raises:
        ConfigError: nothing of that name.
        InputError: the config.json is broken or names something unsupported.
        EnvironmentFault: the Hub cannot be reached or refuses access.
    """
    path = Path(name)
    if path.suffix == ".json":
        return path.stem if path.stem != "config" else path.resolve().parent.name, _read(path)
    if path.is_dir() or name.startswith("mini:"):
        directory = resolve_model(name)
        return name if name.startswith("mini:") else path.resolve().name, load_config(directory)
    file = _model_file(name)
    if file is None:
        return Path(name).name, _read(download_config(name, None))
    facts = _read_facts(file)
    repository = facts["repository"]
    if facts.get("config") is None:
        config = _read(download_config(repository, facts.get("revision")))
    else:
        config = parse_config(facts["config"], source=f"{file}: config")
    return Path(repository).name, config


def shipped_facts(name: str) -> dict[str, Any] | None:
    """What the file in configs/models says of a model; None for a Hub id that none describes.

    Raises:
        ConfigError: neither a Hub id nor a name in configs/models.
    """
    file = _model_file(name)
    return None if file is None else _read_facts(file)


def _model_file(name: str) -> Path | None:
    """The file that describes the model; None for a Hub id that none describes."""
    if is_hub_id(name) and not Path(name).exists():
        described = (p for p in named_configs("models").values() if _repository(p) == name)
        return next(described, None)
    try:
        return find_config("models", name)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. A checkpoint directory, a config.json's path and a Hub id (owner/name) "
            "name a model, too"
        ) from None


def _repository(file: Path) -> str | None:
    """The Hub id in a model file; None where it cannot be read, which is no fault of another."""
    try:
        return _read_facts(file)["repository"]
    except ThinkSafeError:
        return None


def _read_facts(file: Path) -> dict[str, Any]:
    try:
        facts = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: {first_line(error)}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("repository"), str):
        raise ConfigError(f"{file}: has no `repository: owner/name`")
    return facts


def _read(file: Path) -> ModelConfig:
    if not file.exists():
        raise ConfigError(f"no config.json at {file}")
    return parse_config(read_json_object(file), source=str(file))
