"""Recipe files: YAML, `key.sub=value` overrides and `${a.b}` references, read strictly."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinksafe_jax.config.checks import completeness_problems, section_problems
from thinksafe_jax.config.recipe import Recipe
from thinksafe_jax.config.shipped import find_config
from thinksafe_jax.config.strict import build
from thinksafe_jax.config.yaml_files import REFERENCE, check_references, home_paths, read_yaml
from thinksafe_jax.errors import ConfigError, first_line, quoted

_SHOWN = 40  # problems that a message lists
# mappings with keys of the user's own: another value replaces them, where one of a section adds
_OWN_KEYS = ("labels", "where", "guidance")


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check all of it.

    Paths inside the recipe (prompt files, model folders) are relative to the current directory,
    not to the recipe; `~/` is the home folder. A recipe without a name is called after its file.

    Args:
        path: a YAML file, or the name of one in configs/recipes, as `mini`; keys it does not name
            keep the paper's values.
        overrides: `key.sub=value`, values in YAML: `training.epochs=1`,
            `synthesis.prompts[0].limit=50`, `training.lora_targets=[q_proj]`.

    Raises:
        ConfigError: no such file, broken YAML, or every unknown key, wrong type and value out of
            range, each with its full key.
    """
    path = find_config("recipes", path)
    config = read_yaml(path)
    for override in overrides:
        _apply(config, override)
    plain = OmegaConf.to_container(config, resolve=False)
    problems = list(_forbidden_references(plain, ""))
    recipe = Recipe()
    if not problems:
        recipe, problems = build(Recipe, _resolved(path, plain))
        recipe = recipe if recipe.name else replace(recipe, name=path.stem)
        problems += section_problems(recipe)
    # what is missing is only worth saying once what is there can be understood
    problems = problems or completeness_problems(recipe)
    refuse_problems(path, problems)
    return recipe


def refuse_problems(path: Path, problems: Sequence[str]) -> None:
    """Says everything that is wrong with a file in one message, or nothing.

    Raises:
        ConfigError: there are problems.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(f"{path}: {problems[0]}")
    more = [f"… and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
    lines = [f"{path}: {len(problems)} problems", *problems[:_SHOWN], *more]
    raise ConfigError("\n  ".join(lines))


def parse_override(override: str) -> tuple[str, Any]:
    """The key and the value of `key.sub=value`; references stay as they are written.

    Raises:
        ConfigError: it is no override, or its value no YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{quoted(override, 200)} is no override; expected key.sub=value")
    with _override_errors(override):
        # as a plain value, since reading an item of a config would follow its references
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return key.strip(), home_paths(parsed["value"])


def _apply(config: Any, override: str) -> None:
    key, value = parse_override(override)
    with _override_errors(override):
        merge = key.rpartition(".")[2] not in _OWN_KEYS
        OmegaConf.update(config, key, value, merge=merge, force_add=True)


@contextmanager
def _override_errors(override: str) -> Iterator[None]:
    """What is wrong with an override as a ConfigError."""
    try:
        yield
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(
            f"{quoted(override, 200)}: the value is not valid YAML ({problem})"
        ) from None
    except (OmegaConfBaseException, RecursionError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{quoted(override, 200)}: {first_line(error)}") from None


def _forbidden_references(value: Any, key: str) -> Iterator[str]:
    """References could read the environment and run resolvers: only `${a.b}` is allowed."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _forbidden_references(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _forbidden_references(item, f"{key}[{i}]")
    elif isinstance(value, str) and "${" in REFERENCE.sub("", value):
        yield (
            f"{key}: {quoted(value)}; only a reference to a key, as ${{training.epochs}}, is "
            "allowed"
        )


def _resolved(path: Path, given: Any) -> Any:
    """References filled in; they may also point at keys that only have a default."""
    sections = _over(asdict(Recipe()), given)
    check_references(path, sections)
    try:
        return OmegaConf.to_container(OmegaConf.create(sections), resolve=True)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{path}: {key}{first_line(error)}") from None


def _over(default: Any, given: Any) -> Any:
    if not isinstance(default, dict) or not isinstance(given, dict):
        return given
    return default | {k: _over(default.get(k), v) for k, v in given.items()}
