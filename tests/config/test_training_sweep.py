"""One line that stands for several trainings: their names and what each changes."""

import pytest

from thinksafe_jax.config import expand_sweep, load_recipe
from thinksafe_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("template", "overrides", "trainings"),
    [
        ("hot", [], {"hot": []}),
        ("hot", ["training.epochs=1"], {"hot": ["training.epochs=1"]}),
        (
            "lr-{learning_rate}",
            ["training.learning_rate=[1e-5,3e-5,2e-4]"],
            {f"lr-{x}": [f"training.learning_rate={y}"]
             for x, y in (("1e-5", "1e-05"), ("3e-5", "3e-05"), ("0.0002", "0.0002"))},
        ),
        (
            "{training.lora_r}x{epochs}",
            ["training.lora_r=[8,16]", "training.epochs=[1,2]"],
            {f"{r}x{e}": [f"training.lora_r={r}", f"training.epochs={e}"]
             for r in (8, 16) for e in (1, 2)},
        ),
        # a key that takes a list takes it whole; a list of lists is several
        ("qv", ["training.lora_targets=[q_proj,v_proj]"],
         {"qv": ['training.lora_targets=["q_proj", "v_proj"]']}),
        ("on-{lora_targets}", ["training.lora_targets=[[q_proj],[q_proj,v_proj]]"],
         {"on-q_proj": ['training.lora_targets=["q_proj"]'],
          "on-q_proj+v_proj": ['training.lora_targets=["q_proj", "v_proj"]']}),
    ],
)  # fmt: skip
def test_a_list_is_a_training_for_each(template, overrides, trainings):
    assert expand_sweep(template, overrides) == trainings
    for changes in trainings.values():
        load_recipe("mini", changes)  # they are overrides as any others


@pytest.mark.parametrize(
    ("template", "overrides", "message"),
    [
        ("hot", ["training.learning_rate=[1e-5,3e-5]"],
         r"several trainings would be called 'hot'; tell them apart by \{learning_rate\}"),
        ("{rate}", ["training.epochs=1"], r"no \{rate\}; there are \{epochs\}"),
        ("{}", [], r"no \{\}; there are none: no key=value is given"),
        ("hot", ["epochs"], "'epochs' is no override; expected key.sub=value"),
        ("hot", ["training.epochs=[1"], "not valid YAML"),
    ],
)  # fmt: skip
def test_what_names_no_training_is_said(template, overrides, message):
    with pytest.raises(ConfigError, match=message):
        expand_sweep(template, overrides)
