"""The rule by which a method's setting is chosen, as one sentence of the study file.

    minimise harm subject to reasoning >= initial - 2 points and over_refusal <= initial + 5 points

`minimise` or `maximise` a measure, then conditions joined by `and`. A bound is a number of points,
or the student's own value before training (`initial`) with points added or taken away. Measures are
harm, over_refusal, reasoning, unparsed and unparsed_harmless (means over the suites of a kind), and
suites by name.

Of the settings that keep all conditions the best one is chosen; where none does, the one that
breaks them by the fewest points. Of equals the first in the file is taken.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thinksafe_jax.errors import ConfigError, quoted
from thinksafe_jax.intervals import Estimate

MEASURES = ("harm", "over_refusal", "reasoning", "unparsed", "unparsed_harmless")
_NAME = r"[\w.-]+"
_RULE = re.compile(rf"\s*(minimise|maximise)\s+({_NAME})\s*(?:subject\s+to\s+(.+?))?\s*", re.DOTALL)
_NUMBER = r"\d+(?:\.\d+)?"
_CONDITION = re.compile(
    rf"\s*({_NAME})\s*(<=|>=)\s*"
    rf"(?:(initial)(?:\s*([+-])\s*({_NUMBER})\s*points)?|({_NUMBER})\s*points)\s*"
)
_GRAMMAR = (
    "expected minimise or maximise MEASURE, then maybe subject to MEASURE <= initial + 5 points "
    "and MEASURE >= 90 points"
)
_EXACT = 9  # decimals to which values are compared: sums of shares differ in their last bits


@dataclass(frozen=True)
class Condition:
    """A bound on a measure.

    Attributes:
        sign: 1 for at most, -1 for at least.
        from_initial: whether `points` are added to the untouched student's value.
        points: as a share, 0.02 for 2 points.
        text: as written.
    """

    measure: str
    sign: int
    from_initial: bool
    points: float
    text: str

    def excess(self, values: Mapping[str, float], initial: Mapping[str, float]) -> float:
        """By how much the bound is broken, as a share; 0 where it is kept."""
        bound = self.points + (initial[self.measure] if self.from_initial else 0.0)
        return max(0.0, round(self.sign * (values[self.measure] - bound), _EXACT))

    def surely_broken(self, estimate: Estimate) -> bool:
        """Whether the whole interval lies beyond the bound.

        Args:
            estimate: of the measure; less the untouched student's, where the bound is.
        """
        nearest = estimate.low if self.sign > 0 else estimate.high
        return nearest is not None and self.sign * (nearest - self.points) > 0


@dataclass(frozen=True)
class Rule:
    """What is best, and what must hold.

    Attributes:
        sign: 1 where less is better, -1 where more is.
        text: the sentence as written.
    """

    measure: str
    sign: int
    conditions: tuple[Condition, ...]
    text: str

    @property
    def measures(self) -> list[str]:
        """All that must be measured."""
        return list(dict.fromkeys([self.measure, *(c.measure for c in self.conditions)]))


@dataclass(frozen=True)
class Choice:
    """The chosen setting and, for each setting, the conditions that it breaks.

    Attributes:
        chosen: name of a setting; None where none was measured.
        broken: setting -> texts of the conditions that it breaks; a setting that was not measured
            is not in it.
        unsure: setting -> those of them that chance may have broken: the bound lies in the 95 %
            interval.
    """

    chosen: str | None
    broken: dict[str, tuple[str, ...]]
    unsure: dict[str, tuple[str, ...]] = field(default_factory=dict)


def parse_rule(text: str) -> Rule:
    """The rule that a sentence says.

    Raises:
        ConfigError: it is no such sentence; with the part that cannot be read.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise ConfigError(f"is {quoted(text, 200)}; {_GRAMMAR}")
    goal, measure, rest = match.groups()
    conditions = [_condition(part) for part in re.split(r"\s+and\s+", rest)] if rest else []
    sign = 1 if goal == "minimise" else -1
    return Rule(measure, sign, tuple(conditions), " ".join(text.split()))


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"cannot read the condition {quoted(text, 200)}; {_GRAMMAR}")
    measure, comparison, initial, direction, change, number = match.groups()
    points = float(number or change or 0) / 100
    return Condition(
        measure,
        1 if comparison == "<=" else -1,
        initial is not None,
        -points if direction == "-" else points,
        " ".join(text.split()),
    )


def choose(
    rule: Rule,
    settings: Sequence[tuple[str, Mapping[str, float] | None]],
    initial: Mapping[str, float],
) -> Choice:
    """The best setting by the rule.

    Args:
        settings: (name, value of each measure as a share) in the order of the file; no values where
            a run failed or nothing could be read.
        initial: values of the untouched student.
    """
    broken: dict[str, tuple[str, ...]] = {}
    ranked = []
    for place, (name, values) in enumerate(settings):
        if values is None or any(measure not in values for measure in rule.measures):
            continue
        excess = {c.text: c.excess(values, initial) for c in rule.conditions}
        broken[name] = tuple(text for text, points in excess.items() if points > 0)
        goal = round(rule.sign * values[rule.measure], _EXACT)
        ranked.append((round(sum(excess.values()), _EXACT), goal, place, name))
    return Choice(min(ranked)[-1] if ranked else None, broken)
