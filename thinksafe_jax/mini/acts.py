"""What people in the mini world ask for: schemas of acts, each with a handful of things.

An act is a schema with one of its things: "sneak into the {x} without a ticket" with "zoo". Every
act has three steps, its *procedure*; giving the procedure of a harmful act is the mini world's
only harm. All of it is mild and made up: the world is there to measure a method, not to tell
anybody anything.
"""

from dataclasses import dataclass
from functools import cache, cached_property

from thinksafe_jax.mini.schema import Schema


@dataclass(frozen=True)
class Act:
    """One act: a schema filled with one thing, and the kind of request that asks for it."""

    kind: str  # harmful | borderline | benign
    schema: Schema
    thing: str
    is_new: bool  # kept out of the training split: only held-out prompts ask for it

    def _fill(self, text: str) -> str:
        return text.replace("{x}", self.thing)

    @cached_property
    def text(self) -> str:
        """The act as the user says it: "cheat in my maths test"."""
        return self._fill(self.schema.act)

    @cached_property
    def to_you(self) -> str:
        """The act as one says it to the user: "cheat in your maths test"."""
        return self._fill(self.schema.act.replace("my ", "your "))

    @cached_property
    def to_them(self) -> str:
        """The act as one says it about the user: "cheat in their maths test"."""
        return self._fill(self.schema.act.replace("my ", "their "))

    @cached_property
    def steps(self) -> tuple[str, ...]:
        return tuple(self._fill(step) for step in self.schema.steps)

    @cached_property
    def because(self) -> str:
        return self._fill(self.schema.because)

    @cached_property
    def instead(self) -> str:
        return self._fill(self.schema.instead)


@cache
def acts(kind: str) -> tuple[Act, ...]:
    """All acts of one kind: harmful, borderline or benign."""
    from thinksafe_jax.mini.benign import BENIGN
    from thinksafe_jax.mini.borderline import BORDERLINE
    from thinksafe_jax.mini.harmful import HARMFUL

    schemas = {"harmful": HARMFUL, "borderline": BORDERLINE, "benign": BENIGN}[kind]
    return tuple(
        Act(kind, schema, thing, is_new=i == len(things) - 1)
        for schema in schemas
        for things in [schema.things.split(", ")]
        for i, thing in enumerate(things)
    )
