"""What a rollout is rewarded for: one file for each name in `on_policy.rewards`.

Every file defines REWARD, a function of a sequence of rollouts -> a number for each, or None where
there is none, as where the guard could not be read. None is no 0: such a rollout is left out of its
group's statistics and of the loss. A function of one's own is named `package.module:function`.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

from thinksafe_jax.config import RewardTerm
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import ConfigError, InputError, did_you_mean, first_line, quoted
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.variants import Variants

Reward = Callable[[Sequence[Rollout]], Sequence[float | None]]
REWARDS: Variants[Reward] = Variants(__name__, "REWARD", "reward")


def reward_function(name: str) -> Reward:
    """The reward of a name, or of a Python path `package.module:function`.

    Raises:
        ConfigError: there is none; the message names the nearest, or what could not be imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return REWARDS[name]
    try:
        function: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"on_policy.rewards: {name!r} cannot be imported: {first_line(error)}"
        ) from None
    if callable(function):
        return cast(Reward, function)
    raise ConfigError(f"on_policy.rewards: {name!r} is no function")


def rewards_of(
    terms: Sequence[RewardTerm], rollouts: Sequence[Rollout]
) -> list[list[float | None]]:
    """Each term's weighted reward of each rollout: `[terms][rollouts]`.

    A term that is for other prompts gives 0: it neither counts nor leaves a rollout out.

    Raises:
        InputError: a reward raised, gave another number of values, or something that is no finite
            number.
    """
    table: list[list[float | None]] = []
    for term in terms:
        asked = [r for r in rollouts if is_for(term, r.prompt)]
        values = iter(_checked(term.name, asked))
        table.append(
            [
                _weighted(next(values), term.weight) if is_for(term, r.prompt) else 0.0
                for r in rollouts
            ]
        )
    return table


def is_for(term: RewardTerm, prompt: Prompt) -> bool:
    """Whether a term rewards answers to this prompt: by its label, and by its class."""
    source, _, spelled = prompt.stratum.partition("/")  # a source's name has no slash, a label may
    classes = (None, prompt.stratum, source, spelled)
    return term.label in (None, prompt.label) and term.stratum in classes


def check_classes(terms: Sequence[RewardTerm], prompts: Sequence[Prompt]) -> None:
    """Refuses a reward that is for none of the prompts.

    Raises:
        InputError: with the classes that there are.
    """
    for term in terms:
        if term.stratum is not None and not any(is_for(term, prompt) for prompt in prompts):
            known = sorted({prompt.stratum.strip("/") for prompt in prompts} - {""})
            raise InputError(
                f"on_policy.rewards: {term.name} is for prompts of {quoted(term.stratum)}"
                + (f" and the label {term.label}" if term.label else "")
                + f", and there are none{did_you_mean(term.stratum, known)} (classes: "
                f"{', '.join(known) or 'none'})"
            )


def _weighted(value: float | None, weight: float) -> float | None:
    return None if value is None else weight * value


def _checked(name: str, rollouts: Sequence[Rollout]) -> list[float | None]:
    if not rollouts:
        return []
    function = reward_function(name)
    try:
        values = list(function(rollouts))
    except Exception as error:
        raise InputError(
            f"reward {name} failed on {len(rollouts)} rollouts: {type(error).__name__}: "
            f"{first_line(error)}. The rollouts are kept; mend it and start again"
        ) from error
    if len(values) != len(rollouts):
        raise InputError(
            f"reward {name} gave {len(values)} values for {len(rollouts)} rollouts; expected one "
            "for each, None where there is none"
        )
    for value, rollout in zip(values, rollouts, strict=True):
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise InputError(
                f"reward {name} of rollout {rollout.name} is {value!r}; expected a finite number, "
                "or None where there is none"
            )
    return [None if value is None else float(value) for value in values]
