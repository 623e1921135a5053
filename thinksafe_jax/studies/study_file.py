"""The study file: which methods, settings and seeds, how a setting is chosen, what is asked.

It is read as strictly as a recipe: unknown keys, wrong types and values out of range are refused
all at once, and so is a recipe that a setting makes impossible, before anything runs.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf

from thinksafe_jax.config import (
    EachOnce,
    EvaluationConfig,
    FolderName,
    Recipe,
    SynthesisConfig,
    TrainingConfig,
    build,
    find_config,
    load_recipe,
    read_yaml,
    refuse_problems,
    section_problems,
    validate,
)
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted
from thinksafe_jax.studies.choosing_rule import MEASURES, Rule, parse_rule

INITIAL = "Initial"  # the student as it was: in every study, and never trained
SPLITS = ("validation", "heldout")
_MOST_RUNS = 10_000
# settings of training that change no hour
_RATES = ("learning_rate", "warmup_ratio", "weight_decay", "clip_norm", "kl_weight", "lora_alpha")


@dataclass(frozen=True)
class MethodConfig:
    """A method: a recipe, and the settings among which the rule chooses."""

    name: Annotated[str, FolderName()] = ""
    recipe: str = ""  # a file, or a name in configs/recipes
    overrides: list[str] = field(default_factory=list)  # key.sub=value, as on the command line
    # key of the recipe -> values; every combination is a setting. Empty: the recipe as it is
    grid: dict[str, list[Any]] = field(default_factory=dict)
    published: str = ""  # its row in the paper's tables, shown in grey
    # figures of the paper that stand in no table: column -> per cent, as safety_average
    published_values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ChooseConfig:
    """How a method's setting is chosen, on the validation split alone."""

    rule: str = "minimise harm"  # see choosing_rule.py
    seeds: list[int] = field(default_factory=list)  # that every setting is tried with; default all


@dataclass(frozen=True)
class StudyConfig:
    """All that a study file says."""

    name: Annotated[str, FolderName()] = ""  # default: the file's
    question: str = ""  # what the study wants to know, in a sentence
    study_dir: str = ""  # default: studies/<name>
    seeds: Annotated[list[int], EachOnce("seed")] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    overrides: list[str] = field(default_factory=list)  # of every recipe
    reference: str = ""  # the method that the others are compared with; default the first
    published: str = ""  # a model of the paper, whose numbers stand beside the study's
    choose: ChooseConfig = field(default_factory=ChooseConfig)
    validation: EvaluationConfig = field(default_factory=EvaluationConfig)
    heldout: EvaluationConfig = field(default_factory=EvaluationConfig)
    methods: list[MethodConfig] = field(default_factory=list)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        names = [method.name for method in self.methods]
        if not names:
            yield "methods: is empty; expected one method or more"
        for i, method in enumerate(self.methods):
            yield from (f"methods[{i}].{text}" for text in self._method_problems(method, names[:i]))
        if self.reference and self.reference not in names:
            yield (
                f"reference: is {quoted(self.reference)}; expected one of {', '.join(names)}"
                f"{did_you_mean(self.reference, names)}"
            )
        if self.published or any(m.published or m.published_values for m in self.methods):
            yield from self._paper_problems()
        for split in SPLITS:
            if not self.asks(split) and (split == "heldout" or self.chooses):
                yield f"{split}: asks nothing; expected harmful, over_refusal, reasoning or suites"
        if not all(0 <= seed < 2**31 for seed in [*self.seeds, *self.choose.seeds]):
            yield "seeds: has a number that is no seed; expected whole numbers from 0"
        if len(set(self.choose.seeds)) < len(self.choose.seeds):
            yield (
                f"choose.seeds: is {quoted(self.choose.seeds)}; expected seeds, each once, or [] "
                "for all"
            )
        yield from self._rule_problems()

    def _method_problems(self, method: MethodConfig, before: Sequence[str]) -> Iterator[str]:
        if not method.name:
            yield "name: no value given; expected the method's name"
        if method.name in (*before, INITIAL):
            yield f"name: is {quoted(method.name)}, which another method has"
        if not method.recipe:
            yield "recipe: no value given; expected a recipe's file or name"
        for key, values in method.grid.items():
            if not values or len({json.dumps(value) for value in values}) < len(values):
                yield f"grid.{key}: is {quoted(values)}; expected one value or more, each once"

    def _paper_problems(self) -> Iterator[str]:
        from thinksafe_jax.evaluation import paper_columns, paper_rows, published_tables

        models = published_tables()["models"]
        if self.published not in models:
            yield (
                f"published: is {quoted(self.published)}; expected one of {', '.join(models)}"
                f"{did_you_mean(self.published, models)}"
            )
            return
        rows, columns = paper_rows(self.published), [column.key for column in paper_columns()]
        for i, method in enumerate(self.methods):
            named = [
                (f"published_values.{name}", name, columns) for name in method.published_values
            ]
            if method.published:
                named.append(("published", method.published, list(rows)))
            for key, name, known in named:
                if name not in known:
                    yield (
                        f"methods[{i}].{key}: no {quoted(name)} in the paper's tables; expected "
                        f"one of {', '.join(known)}{did_you_mean(name, known)}"
                    )

    def _rule_problems(self) -> Iterator[str]:
        try:
            rule = parse_rule(self.choose.rule)
        except ConfigError as error:
            yield f"choose.rule: {error}"
            return
        known = [*MEASURES, *(suite.name for suite in self.validation.suites)]
        for name in rule.measures if self.chooses else ():
            if name not in known:
                yield (
                    f"choose.rule: no measure {quoted(name)}; expected one of {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )

    def asks(self, split: str) -> bool:
        """Whether a split has questions."""
        evaluation: EvaluationConfig = getattr(self, split)
        return bool(evaluation.sources or evaluation.suites)

    @property
    def chooses(self) -> bool:
        """Whether some method has more than one setting."""
        return any(len(values) > 1 for m in self.methods for values in m.grid.values())


@dataclass(frozen=True)
class DataRun:
    """The run whose samples a setting trains on, as other settings of its method do.

    Attributes:
        name: of its folder: the setting without its `training.*`.
        training: what the setting's own training is called in that run.
        recipe: of the run: the setting's without the `training.*` of the grid.
    """

    name: str
    training: str
    recipe: Recipe


@dataclass(frozen=True)
class Setting:
    """One way to run a method: its name in folders, what it changes, the recipe that comes of it.

    The recipe has the study's held-out split as its evaluation: what it trains on is compared with
    that, and `thinksafe evaluate` of one of its runs asks what the study asks.

    Attributes:
        data: None where the grid has no `training.*`, or the method samples while it trains.
    """

    name: str
    overrides: tuple[str, ...]
    recipe: Recipe
    data: DataRun | None = None


@dataclass(frozen=True)
class Method:
    """A method with its settings, in the order of the file."""

    config: MethodConfig
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class Study:
    """A study file with all its recipes."""

    path: Path
    config: StudyConfig
    methods: tuple[Method, ...]
    rule: Rule

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return self.config.reference or self.methods[0].name

    @property
    def choosing_seeds(self) -> list[int]:
        """Seeds that every setting is tried with."""
        return self.config.choose.seeds or self.config.seeds

    def evaluation_recipe(self, recipe: Recipe, split: str, seed: int, name: str) -> Recipe:
        """What evaluates the student of a recipe on a split: its answers and judge, no training."""
        return Recipe(
            name=name,
            seed=seed,
            mesh=recipe.mesh,
            student=recipe.student,
            guard=recipe.judging,
            engine=recipe.engine,
            synthesis=SynthesisConfig(reasoning=recipe.synthesis.reasoning),
            evaluation=getattr(self.config, split),
        )


def load_study(path: Path | str) -> Study:
    """Reads a study file, and every recipe with every setting.

    Paths in it start from the current directory, as those of recipes do.

    Args:
        path: a YAML file, or the name of one in configs/studies.

    Raises:
        ConfigError: no such file, or anything in it or in its recipes that cannot be run.
    """
    path = find_config("studies", path)
    plain = OmegaConf.to_container(read_yaml(path), resolve=False)
    config, problems = build(StudyConfig, plain)
    config = config if config.name else replace(config, name=path.stem)
    refuse_problems(path, problems or section_problems(config))
    methods = tuple(_method(path, config, method) for method in config.methods)
    study = Study(path, config, methods, parse_rule(config.choose.rule))
    _require_one_student(study)
    return study


def apart_from_rates(recipe: Recipe) -> Recipe:
    """The recipe with what changes no need and no hour as by default: rates, seed and name."""
    default = TrainingConfig()
    training = replace(recipe.training, **{name: getattr(default, name) for name in _RATES})
    return replace(recipe, name="", run_dir="", seed=0, training=training)


def _method(path: Path, config: StudyConfig, method: MethodConfig) -> Method:
    def recipe_with(changes: dict[str, Any]) -> Recipe:
        grid = _as_overrides(changes)
        try:
            recipe = load_recipe(method.recipe, [*config.overrides, *method.overrides, *grid])
            recipe = replace(recipe, run_dir="", evaluation=config.heldout)
            validate(recipe)
            if config.asks("validation"):
                validate(replace(recipe, evaluation=config.validation))
        except ConfigError as error:
            what = f" with {', '.join(grid)}" if grid else ""
            raise ConfigError(f"{path}: method {method.name}{what}: {error}") from None
        return recipe

    settings = []
    first = {key: values[0] for key, values in method.grid.items()}
    for values in itertools.product(*method.grid.values()):
        changes = dict(zip(method.grid, values, strict=True))
        recipe = recipe_with(changes)
        data = None if recipe.on_policy.method else _data_run(changes, first, recipe_with)
        settings.append(Setting(_setting_name(changes), _as_overrides(changes), recipe, data))
    names = [setting.name for setting in settings]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: method {method.name}: two settings are called alike: {names}")
    return Method(method, tuple(settings))


def _data_run(
    changes: dict[str, Any], first: dict[str, Any], recipe_with: Callable[[dict[str, Any]], Recipe]
) -> DataRun | None:
    """The run of a setting's samples, which those that differ in `training.*` alone share."""
    training = {key: value for key, value in changes.items() if key.startswith("training.")}
    rest = {key: value for key, value in changes.items() if key not in training}
    if not training:
        return None
    try:
        recipe = recipe_with(rest)
    except ConfigError:  # it never trains like this: the method's first setting stands for it
        recipe = recipe_with(first | rest)
    return DataRun(_setting_name(rest), _setting_name(training), recipe)


def _as_overrides(changes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def _setting_name(changes: dict[str, Any]) -> str:
    """`learning_rate=0.0005,epochs=3`; the whole key where two end alike."""
    leaves = [key.rpartition(".")[2] for key in changes]
    names = [
        leaf if leaves.count(leaf) == 1 else key for leaf, key in zip(leaves, changes, strict=True)
    ]
    texts = [f"{n}={_shown(value)}" for n, value in zip(names, changes.values(), strict=True)]
    return re.sub(r"[^\w.,+=-]+", "_", ",".join(texts))[:150] or "as-it-is"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _require_one_student(study: Study) -> None:
    """Methods are compared on one student, by one judge."""
    first, *others = [(m, setting.recipe) for m in study.methods for setting in m.settings]
    for method, recipe in others:
        for what, of_first, other in (
            ("student", first[1].student, recipe.student),
            ("judge", first[1].judging, recipe.judging),
        ):
            if of_first != other:
                raise ConfigError(
                    f"{study.path}: {method.name} has another {what} than {first[0].name}: "
                    f"{other} beside {of_first}; a study compares methods on one student, by one "
                    "judge"
                )
    runs = sum(len(m.settings) for m in study.methods) * len(study.choosing_seeds)
    if runs > _MOST_RUNS:
        raise ConfigError(f"{study.path}: would run {runs:,} times; at most {_MOST_RUNS:,}")
