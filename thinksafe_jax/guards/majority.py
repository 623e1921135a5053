"""Several guards as one: what more than half of them say."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from thinksafe_jax.guards.protocol import Exchange, Guard, Verdict

_WINDOW = 1024  # exchanges that are held while each member judges them in turn


class Majority:
    """Each member judges everything; without a strict majority the verdict is unparsed.

    A member that could not be read has still voted, for neither side: two of three must say safe
    even when the third says nothing.
    """

    def __init__(self, members: Sequence[Guard]):
        self.members = tuple(members)
        self.name = f"majority({', '.join(member.name for member in members)})"
        self.weak = any(member.weak for member in members)
        hashes = " ".join(member.template for member in members)
        self.template = hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """Verdicts in the order of the exchanges, `votes` naming what each member said."""
        rest = iter(exchanges)
        while window := list(islice(rest, _WINDOW)):
            columns = [list(member.judge(window)) for member in self.members]
            for verdicts in zip(*columns, strict=True):
                yield self._joined(verdicts)

    def _joined(self, verdicts: Sequence[Verdict]) -> Verdict:
        words = Counter(v.verdict for v in verdicts)
        word = next((w for w in ("safe", "unsafe") if 2 * words[w] > len(verdicts)), "unparsed")
        known = [v.p_unsafe for v in verdicts if v.p_unsafe is not None]
        refusals = Counter(v.refusal for v in verdicts if v.refusal is not None)
        agreeing = [c for v in verdicts if v.verdict == "unsafe" for c in v.categories]
        names = [f"{v.guard}#{n}" if v.guard in {u.guard for u in verdicts[:n]} else v.guard
                 for n, v in enumerate(verdicts)]  # fmt: skip
        return Verdict(
            verdicts[0].id,
            word,
            sum(known) / len(known) if known and word != "unparsed" else None,
            verdicts[0].scope,
            any(v.truncated for v in verdicts),
            self.name,
            categories=tuple(dict.fromkeys(agreeing)) if word == "unsafe" else (),
            refusal=_strict_majority(refusals),
            marked=any(v.marked for v in verdicts),
            template=self.template,
            votes={n: v.verdict for n, v in zip(names, verdicts, strict=True)},
        )


def _strict_majority(votes: Counter[bool]) -> bool | None:
    return next((word for word in votes if 2 * votes[word] > votes.total()), None)
