"""Every recipe in configs/recipes loads, plans its attempts, and does what its text promises."""

from collections import Counter

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import SAMPLED, load_recipe
from thinksafe_jax.synthesis import attempts, synthesis_prompts
from thinksafe_jax.synthesis.steering import template_text

RECIPES = sorted((REPOSITORY / "configs/recipes").glob("*.yaml"))
# SafeChain's kinds in about its proportions: 17,888 of its 40,000 prompts are harmful
SAFECHAIN = {
    "vanilla_harmful": 900, "adversarial_harmful": 442,
    "vanilla_benign": 800, "adversarial_benign": 858,
}  # fmt: skip


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_loads_and_plans_its_attempts(file):
    command = f"# thinksafe run --config configs/recipes/{file.name}"
    assert file.read_text(encoding="utf-8").startswith(f"{command}\n")
    synthesis = load_recipe(file).synthesis
    planned = attempts(synthesis)
    assert [attempt.number for attempt in planned] == list(range(1, synthesis.attempts + 1))
    assert all(template_text(attempt.steering) for attempt in planned)  # a name, or a text
    assert synthesis.method in SAMPLED or len(planned) == 1


@pytest.mark.parametrize(
    ("name", "rows"), [("qwen3-0.6b-direct-refusal", 1000), ("qwen3-0.6b-safepath", 400)]
)
def test_baselines_of_harmful_prompts_have_the_papers_number_of_rows(name, rows, tmp_path):
    """Paper.md 1.7: the limit is not spent on benign prompts, which they do not train on."""
    kinds = list(Counter(SAFECHAIN).elements())
    lines = [f"prompt {n},{kind}\n" for n, kind in enumerate(kinds)]
    (tmp_path / "safechain.csv").write_text("instruction,label\n" + "".join(lines))
    recipe = load_recipe(
        REPOSITORY / f"configs/recipes/{name}.yaml",
        [
            f"synthesis.prompts[0].path={tmp_path / 'safechain.csv'}",
            *(f"evaluation.{suite}=[]" for suite in ("harmful", "over_refusal", "reasoning")),
        ],
    )
    found = synthesis_prompts(recipe)
    kept = Counter(prompt.stratum.rpartition("/")[2] for prompt in found.prompts)
    share = SAFECHAIN["vanilla_harmful"] / 1342
    assert kept["vanilla_harmful"] == round(rows * share)
    assert kept["adversarial_harmful"] == rows - kept["vanilla_harmful"]
    assert found.facts["prompts"] == rows == kept.total()


def test_rejection_sampling_takes_five_without_steering():
    """Paper.md 1.2."""
    cfg = load_recipe(REPOSITORY / "configs/recipes/qwen3-0.6b-rejection.yaml").synthesis
    assert [attempt.steering for attempt in attempts(cfg)] == ["none"] * 5
