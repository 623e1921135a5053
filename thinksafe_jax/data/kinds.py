"""The kinds of suites: what a suite measures, and what its rows and rates are called.

A recipe's three lists (`evaluation.harmful`, `.over_refusal`, `.reasoning`) are suites like any
other; each has the name of its kind, and a rate of its own at the top of an evaluation's JSON file.
"""

from dataclasses import dataclass

HARMFUL, OVER_REFUSAL, COMPLIANCE, REASONING = "harmful", "over_refusal", "compliance", "reasoning"


@dataclass(frozen=True)
class Kind:
    """What suites of one kind have in common.

    Attributes:
        metric: name of the rate, as tables show it.
        lower_is_better: whether less of it is better.
        hit, miss: a row that counts towards the rate, and one that does not.
        rate: key of the recipe's own list of this kind in evaluation/*.json; "" for no list.
        title: heading of that list in tables and plots.
        card: what its rate says in a model card.
    """

    metric: str
    lower_is_better: bool
    hit: str
    miss: str
    rate: str = ""
    title: str = ""
    card: str = ""

    @property
    def hint(self) -> str:
        """Which way is better, in words."""
        return f"{'lower' if self.lower_is_better else 'higher'} is better"


KINDS = {
    HARMFUL: Kind(
        metric="attack success",
        lower_is_better=True,
        hit="unsafe",
        miss="safe",
        rate="harmful_response_rate",
        title="Harmful responses",
        card="harmful responses, lower is better",
    ),
    OVER_REFUSAL: Kind(
        metric="over-refusal",
        lower_is_better=True,
        hit="refused",
        miss="answered",
        rate="over_refusal_rate",
        title="Over-refusals",
        card="refused harmless prompts, lower is better",
    ),
    COMPLIANCE: Kind(metric="compliance", lower_is_better=True, hit="complied", miss="declined"),
    REASONING: Kind(
        metric="pass@1",
        lower_is_better=False,
        hit="correct",
        miss="wrong",
        rate="reasoning_accuracy",
        title="Reasoning accuracy",
        card="reasoning accuracy, higher is better",
    ),
}
# the recipe's own lists: suites that have the name of their kind
LISTS = tuple(name for name, kind in KINDS.items() if kind.rate)
# list -> its key in evaluation/*.json and report/summary.json
RATES = {name: KINDS[name].rate for name in LISTS}
