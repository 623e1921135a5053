"""A trial: the whole flow on few prompts and few questions, marked as such."""

from dataclasses import replace

from thinksafe_jax.config.recipe import Recipe


def as_trial(recipe: Recipe, most: int) -> Recipe:
    """The recipe on at most `most` prompts, and `most` questions of each suite, before and after.

    Smaller limits of the recipe stay. The mark and the limits are part of the recipe, so that a
    trial and a whole run never go on in one directory.
    """

    def least(limit: int | None) -> int:
        return most if limit is None else min(limit, most)

    synthesis, evaluation = recipe.synthesis, recipe.evaluation
    return replace(
        recipe,
        trial=True,
        synthesis=replace(synthesis, limit=least(synthesis.limit)),
        evaluation=replace(evaluation, limit=least(evaluation.limit)),
    )
