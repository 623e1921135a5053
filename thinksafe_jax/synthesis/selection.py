"""Which prompts a run takes: those no evaluation asks, and a fair part of them.

sources ─► labels, ids, duplicates ─► the method's labels ─► contamination ─► limit, by stratum
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.runs import content_hash
from thinksafe_jax.synthesis.prompts import Prompt, load_prompts, read_prompts, source_hashes
from thinksafe_jax.synthesis.sample import HARMFUL_ONLY

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The prompts of a run, in the order of their sources, and what the manifest says of them."""

    prompts: list[Prompt]
    facts: dict[str, Any]


def synthesis_prompts(recipe: Recipe) -> Selection:
    """Reads, checks and selects the prompts of a recipe.

    A method that trains on harmful prompts alone is given no others, so that `synthesis.limit`
    counts the rows that it will have.

    Raises:
        ConfigError, InputError: as `read_prompts`.
    """
    cfg = recipe.synthesis
    found = read_prompts(cfg.prompts, require_label=True)
    usable = found.prompts
    if cfg.method in HARMFUL_ONLY:
        usable = [prompt for prompt in usable if prompt.label == "harmful"]
    held_out = [
        prompt
        for sources in (
            recipe.evaluation.harmful,
            recipe.evaluation.over_refusal,
            recipe.evaluation.reasoning,
        )
        if sources
        for prompt in load_prompts(sources, require_label=False)
    ]
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
            "duplicates": found.duplicates,
            "contaminated_exact": len(exact),
            "contaminated_normalised": len(near),
            "contaminated_dropped": len(dropped),
            "sources_sha256": source_hashes(cfg.prompts),
            "prompts_sha256": content_hash([[p.id, p.text, p.label] for p in kept]),
        },
    )


def contaminated(
    prompts: Iterable[Prompt], held_out: Iterable[Prompt]
) -> tuple[list[str], list[str]]:
    """Ids of prompts that are asked in an evaluation: (word for word, only when normalised)."""
    texts = {prompt.text for prompt in held_out}
    plain = {normalised(text) for text in texts} - {""}
    exact, near = [], []
    for prompt in prompts:
        if prompt.text in texts:
            exact.append(prompt.id)
        elif normalised(prompt.text) in plain:
            near.append(prompt.id)
    return exact, near


def normalised(text: str) -> str:
    """A text without case, accents of form, spaces and punctuation: letters and digits only."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


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
