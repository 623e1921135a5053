"""What can only be checked once the model is known."""

import dataclasses

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.session import Session


@pytest.mark.parametrize("room", ["synthesis", "evaluation"])
def test_top_k_above_the_vocabulary_is_refused_by_name(room):
    recipe = load_recipe(
        REPOSITORY / "configs/recipes/mini.yaml", [f"{room}.sampling.top_k=200000"]
    )
    with pytest.raises(ConfigError, match=rf"{room}\.sampling\.top_k: 200000 is above .* 1536"):
        Session(recipe).engine()


def test_the_models_are_loaded_once():
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml"))
    assert session.params is session.params
    assert dataclasses.is_dataclass(session.cfg)
