"""The facts of a model by name, without its weights."""

import json
from pathlib import Path

import yaml

from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError
from thinksafe_jax.models import ModelConfig, load_config, parse_config
from thinksafe_jax.weights import resolve_model

_FOLDER = Path("configs") / "models"


def find_model(name: str) -> tuple[str, ModelConfig]:
    """What to call the model, and its facts. Only config.json is read or downloaded.

    Args:
        name: a checkpoint directory, a config.json (under any name), `mini:student`, the name of a
            file in configs/models, or a Hub id.

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
    repository, revision = _repository(name)
    return name.rpartition("/")[2], _download(repository, revision)


def _repository(name: str) -> tuple[str, str | None]:
    folders = (_FOLDER, Path(__file__).resolve().parents[2] / _FOLDER)
    files = {p.stem.lower(): p for folder in folders for p in sorted(folder.glob("*.yaml"))}
    file = files.get(name.lower())
    if file is None and name.count("/") == 1:
        return name, None
    if file is None:
        known = f"; known names: {', '.join(sorted(files))}" if files else ""
        raise ConfigError(
            f"no model {name!r}: neither a checkpoint directory, a config.json, a Hub id "
            f"(owner/name) nor a name in {_FOLDER}{known}"
        )
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not isinstance(raw.get("repository"), str):
        raise ConfigError(f"{file}: has no `repository: owner/name`")
    return raw["repository"], raw.get("revision")


def _download(repository: str, revision: str | None) -> ModelConfig:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _read(Path(hf_hub_download(repository, "config.json", revision=revision)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentFault(
            f"{repository}: its config.json is not in the local cache and cannot be fetched from "
            f"the Hub ({' '.join(str(error).split())}). --model also takes a config.json's path"
        ) from None


def _read(file: Path) -> ModelConfig:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config.json at {file}") from None
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error})") from None
    return parse_config(raw, where=str(file))
