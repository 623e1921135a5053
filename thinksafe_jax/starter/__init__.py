"""A first recipe for a model on a machine: of trial size, every value with its reason."""

from thinksafe_jax.starter.first_recipe import FirstRecipe, write_first_recipe

__all__ = ["FirstRecipe", "write_first_recipe"]
