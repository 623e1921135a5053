"""Which prompts a run takes: those no evaluation asks, and a fair part of them.

sources ─► labels, ids, duplicates ─► the method's labels ─► contamination ─► limit, by stratum
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from thinksafe_jax.config import EvaluationConfig, Recipe
from thinksafe_jax.data import Prompt, load_prompts, read_prompts, source_hashes
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.storage import content_hash
from thinksafe_jax.synthesis.sampled_rows import HARMFUL_ONLY, needed_labels

# accents that stand alone are quotation marks; variation selectors choose a picture
_STYLE = {"`", "´", "¨", *map(chr, range(0xFE00, 0xFE10))}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The prompts of a run, in the order of their sources, and what the manifest says of them."""

    prompts: list[Prompt]
    facts: dict[str, Any]


def synthesis_prompts(recipe: Recipe, hashes: Mapping[str, str] | None = None) -> Selection:
    """Reads, checks and selects the prompts of a recipe.

    A method that trains on harmful prompts alone is given no others, so that `synthesis.limit`
    counts the rows that it will have.

    Args:
        hashes: sha256 of each prompt source, where it is known.

    Raises:
        ConfigError, InputError: as `read_prompts`; `drop_contaminated` and a suite of the
            evaluation cannot be read, so what is left out would depend on the network.
    """
    cfg = recipe.synthesis
    read = read_prompts(cfg.prompts, require_label=True)
    usable = read.prompts
    if cfg.method in HARMFUL_ONLY:
        usable = [prompt for prompt in usable if prompt.label == "harmful"]
    held_out, unchecked = _held_out(recipe.evaluation)
    for suite, reason in unchecked.items():
        if cfg.drop_contaminated:
            raise InputError(
                f"synthesis.drop_contaminated: no prompt can be compared with suite {suite} of the "
                f"evaluation: {reason}; give the suite a path, or set drop_contaminated to false"
            )
        _log.warning("prompts are not compared with suite %s: %s", suite, reason)
    exact, near = contaminated(usable, held_out)
    if exact or near:
        _log.warning(
            "%d prompts are asked in the evaluation as well, word for word, and %d more but for "
            "case, spaces and punctuation%s", len(exact), len(near),
            "; left out" if cfg.drop_contaminated else "; see synthesis.drop_contaminated",
        )  # fmt: skip
    dropped = {*exact, *near} if cfg.drop_contaminated else set()
    clean = [prompt for prompt in usable if prompt.id not in dropped]
    kept = stratified(clean, cfg.limit, recipe.seed)
    return Selection(
        kept,
        {
            "prompts": len(kept),
            "duplicates": read.duplicates,
            "contaminated_exact": len(exact),
            "contaminated_normalised": len(near),
            "contaminated_dropped": len(dropped),
            "contamination_unchecked": unchecked,
            "sources_sha256": source_hashes(cfg.prompts) if hashes is None else dict(hashes),
            "prompts_sha256": content_hash([[p.id, p.text, p.label] for p in kept]),
        },
    )


def require_labels(recipe: Recipe, prompts: Iterable[Prompt]) -> None:
    """Refuses prompts of one kind only where the method trains on two, before any is sampled.

    Raises:
        InputError: with how many there are of each kind.
    """
    counts = Counter(prompt.label for prompt in prompts if prompt.text.strip())
    missing = [label for label in needed_labels(recipe.synthesis.method) if not counts[label]]
    if missing:
        given = ", ".join(f"{n} {label}" for label, n in counts.items()) or "none at all"
        raise InputError(
            f"synthesis.prompts: no {' and no '.join(missing)} prompt is left to sample ({given}); "
            f"synthesis.method {recipe.synthesis.method} needs "
            f"{' and '.join(needed_labels(recipe.synthesis.method))} ones. Add a source of that "
            "kind; see also its labels, synthesis.limit and synthesis.drop_contaminated"
        )


def _held_out(cfg: EvaluationConfig) -> tuple[list[Prompt], dict[str, str]]:
    """(what the evaluation asks, {named suite that cannot be read now: why})."""
    from thinksafe_jax.data import load_questions

    listed = (cfg.harmful, cfg.over_refusal, cfg.reasoning)
    asked = [p for sources in listed if sources for p in load_prompts(sources, require_label=False)]
    unchecked = {}
    for suite in cfg.suites:
        try:
            questions = load_questions(EvaluationConfig(suites=[suite])).items
        except EnvironmentFault as error:  # bad suites and files end the run here, before sampling
            unchecked[suite.name] = str(error)
            continue
        # a multiple-choice question may be trained on with its options or without
        asked += [
            Prompt(q.id, text, "")
            for q in questions
            for text in {q.prompt, q.prompt.partition("\nA) ")[0]}
        ]
    return asked, unchecked


def contaminated(
    prompts: Iterable[Prompt], held_out: Iterable[Prompt]
) -> tuple[list[str], list[str]]:
    """Ids of prompts that are asked in an evaluation: (word for word, only when normalised)."""
    texts = {prompt.text for prompt in held_out}
    plain = {normalised(text) for text in texts} - {""}
    exact, near = [], []
    for prompt in prompts if texts else ():
        if prompt.text in texts:
            exact.append(prompt.id)
        elif normalised(prompt.text) in plain:
            near.append(prompt.id)
    return exact, near


def normalised(text: str) -> str:
    """A text without case, forms of letters, spaces and punctuation.

    What tells one question from another stays: the vowel signs of Thai or Devanagari, operators
    (C++, x^2, 3 < 5), a sign between two digits (5-3, 2.5) and # after a letter (C#).
    """
    blank, sign = _noise()
    return sign.sub("", unicodedata.normalize("NFKC", text).casefold().translate(blank))


@cache
def _noise() -> tuple[dict[int, None], re.Pattern[str]]:
    """What `normalised` drops: blanks, marks of format and currency (a table); punctuation."""
    blank, signs = {}, ""
    for point in range(0x20000):  # beyond are ideographs, which are letters
        category = unicodedata.category(chr(point))
        if category[0] == "Z" or category in ("Cc", "Cf", "Sc") or chr(point) in _STYLE:
            blank[point] = None
        elif category[0] == "P":
            signs += chr(point)
    # a sign is dropped unless it is a # after a letter or digit, or stands between two digits
    kept = r"(?<=#)(?<=\w.)|(?<!#)(?<=\d.)(?=\d)"
    return blank, re.compile(rf"[{re.escape(signs)}](?!{kept})", re.DOTALL)


def stratified(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """At most `limit` prompts, every stratum in its own proportion, drawn by the seed.

    Each stratum that has prompts keeps one at least, as far as the limit goes; the shares are
    rounded by largest remainder. The first rows of a file would be no fair part of it (D15).
    """
    if limit is None or limit >= len(prompts):
        return list(prompts)
    strata: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        strata.setdefault(f"{prompt.label}/{prompt.stratum}", []).append(index)
    exact = {name: limit * len(members) / len(prompts) for name, members in strata.items()}
    sizes = {name: int(share) for name, share in exact.items()}
    order = sorted(strata, key=lambda name: (sizes[name] > 0, sizes[name] - exact[name], name))
    for name in order[: limit - sum(sizes.values())]:
        sizes[name] += 1
    chosen = [
        index
        for name, members in strata.items()
        for index in Random(f"{seed}/{name}").sample(members, sizes[name])
    ]
    return [prompts[index] for index in sorted(chosen)]
