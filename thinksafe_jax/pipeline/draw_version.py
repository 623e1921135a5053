"""Rows of one run directory that two versions of the draw have made: it is said, and kept.

A row is right under either version; but no program samples all of them again from the same seed.
manifest.json keeps which versions there were. Directories that were begun before it did so hold
rows of version 1, or of 2.
"""

import logging

from thinksafe_jax.runs import Run
from thinksafe_jax.sampling import DRAW_VERSION, draws_as_before
from thinksafe_jax.storage import shown
from thinksafe_jax.synthesis import attempts

log = logging.getLogger(__name__)
_BEFORE_IT_WAS_KEPT = 1


def check_draw_version(run: Run) -> list[int]:
    """The versions that draw the rows of a run, this one's last; warns where they are several.

    Versions that draw alike under the recipe's sampling options count as one, so that a run which
    was begun before goes on as if nothing had happened.
    """
    samplings = [attempt.sampling for attempt in attempts(run.recipe.synthesis)]
    sampled = any((run.path / "samples").glob("*.jsonl"))
    kept = run.manifest.draw_versions or ([_BEFORE_IT_WAS_KEPT] if sampled else [])
    others = [n for n in kept if not all(draws_as_before(of, n) for of in samplings)]
    if others:
        log.warning(
            "%s: some of its rows may be drawn by version %s of the draw, the rest is by %d. "
            "Each row is right, but no version gives all of them again; for rows of one version "
            "start over with --new-run, or go on with the program that began them",
            shown(run.path), ", ".join(map(str, others)), DRAW_VERSION,
        )  # fmt: skip
    versions = [*others, DRAW_VERSION]
    if run.group.first and versions != run.manifest.draw_versions:
        run.manifest.keep_draw_versions(versions)
    return versions
