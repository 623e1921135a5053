"""What the acts of the mini world are made of: families that differ in one thing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schema:
    """A family of acts that differ in one thing.

    `because` says, for a harmful act, who is hurt; for a borderline one, what its alarming word
    means here. `instead` is the honest alternative to a harmful act.
    """

    act: str  # bare infinitive with {x} for the thing
    things: str  # comma-separated; the last one is never in a training split
    steps: tuple[str, str, str]
    because: str = ""
    instead: str = ""
