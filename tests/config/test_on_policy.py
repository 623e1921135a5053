"""The section `on_policy`: keys of another method, and what does not go together, with the fix."""

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import Recipe, load_recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.storage import content_hash

GRPO = REPOSITORY / "configs/recipes/mini-grpo.yaml"
OTHERS = REPOSITORY / "configs/recipes/mini-self-distillation.yaml"


@pytest.mark.parametrize(
    ("file", "override", "words"),
    [
        (GRPO, "on_policy.method=grppo", "did you mean grpo"),
        (GRPO, "on_policy.advantage=rlo", "did you mean rloo"),
        (GRPO, "on_policy.samples=1", "a group of grpo needs 2 or more"),
        (GRPO, "on_policy.samples=7", "expected a multiple of on_policy.samples 7"),
        (GRPO, "on_policy.rewards=[]", "grpo needs one reward or more"),
        (GRPO, "on_policy.sampling.top_p=0.9", "set top_k 0, top_p 1 and min_p 0"),
        (GRPO, "on_policy.taught=safety", "read by on_policy.method self-distillation alone"),
        (GRPO, "on_policy.teacher.model=m", "read by on_policy.method opd alone"),
        (GRPO, "on_policy.teacher_memory=host", "read by on_policy.method opd alone"),
        (OTHERS, "on_policy.advantage=rloo", "read by on_policy.method grpo alone"),
        (OTHERS, "on_policy.method=opd", "expected the model that opd learns from"),
        (OTHERS, "on_policy.guidance.others=none", "expected the keys harmful and benign"),
        (OTHERS, "on_policy.guidance.harmful=nothing here", "did you mean|a text of your own"),
        (OTHERS, "on_policy.prefixes.run=runs/mini", "read by on_policy.method grpo alone"),
        (GRPO, "on_policy.prefixes.share=0.2", "expected the run directory whose answers"),
        (GRPO, "on_policy.horizon.lengths=[8,128]", "read by on_policy.method self-distillation"),
        (OTHERS, "on_policy.horizon.lengths=[64,32]", "expected lengths that rise"),
        (OTHERS, "on_policy.horizon.lengths=[8,64]", "expected the last of on_policy.horizon"),
        (OTHERS, "on_policy.horizon.lengths=[8,128]", "answer_tokens: is 4096; expected less"),
        (GRPO, "training.objective=ce+kl", "does not read it; leave it out"),
        (GRPO, "training.heldout_rows=3", "does not read it; leave it out"),
        (GRPO, "synthesis.method=external", "does not read it; leave it out"),
        (GRPO, "synthesis.harmful_reasoning=remove", "synthesis.harmful_reasoning: on_policy"),
        (GRPO, "synthesis.benign_refusals=drop", "synthesis.benign_refusals: on_policy.method"),
        (GRPO, "training.lora_dropout=0.05", "rollouts have no dropout; set it to 0"),
        (GRPO, "training.max_length=100", "less than training.max_length"),
        (GRPO, "engine.max_length=100", "on_policy.sampling.max_new_tokens: is 128"),
        (GRPO, "engine.kv_dtype=int8", "set training.ratio_cap .* or leave it at model"),
        (GRPO, "engine.kv_dtype=int8", "on_policy.max_log_p_gap: cannot be held"),
        (OTHERS, "engine.kv_dtype=int8", "nothing corrects the divergence .* leave it at model"),
        (GRPO, "engine.kv_dtype=int4", "expected one of model, int8"),
        (GRPO, "on_policy.server.url=http://h:1/v1", "adapter_folder: no value given"),
        (GRPO, "on_policy.server.url=http://h:1/v1", "set training.ratio_cap"),
        (GRPO, "on_policy.server.retries=2", "expected the server's address"),
        (
            REPOSITORY / "configs/recipes/mini.yaml",
            "on_policy.server.url=http://h:1/v1",
            "on_policy.server: draws rollouts, and no on_policy.method is set",
        ),
        (REPOSITORY / "configs/recipes/mini.yaml", "training.ratio_cap=2", "no on_policy.method"),
        (
            REPOSITORY / "configs/recipes/mini.yaml",
            "training.objective=rollout-streams",
            "what on_policy.method sets",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_key(file, override, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(file, [override])


def test_rounded_keys_and_values_go_with_a_gradient_that_is_corrected():
    corrected = ["engine.kv_dtype=int8", "training.ratio_cap=2", "on_policy.max_log_p_gap=null"]
    assert load_recipe(GRPO, corrected).engine.kv_dtype == "int8"


def test_a_server_of_rollouts_may_move_but_not_come_or_go():
    """A run is begun with who draws its rollouts, and of what model; not with where that stands."""
    served = ["training.ratio_cap=2", "on_policy.server.adapter_folder=/a"]
    here = load_recipe(GRPO, ["training.ratio_cap=2"]).on_policy
    there, moved = (
        load_recipe(GRPO, [*served, f"on_policy.server.url=http://{host}/v1"]).on_policy
        for host in ("h", "i")
    )
    assert content_hash(there.comparable) == content_hash(moved.comparable)
    assert content_hash(there.comparable) != content_hash(here.comparable)
    assert content_hash(here.comparable) == content_hash(here)


STAR1 = REPOSITORY / "configs/recipes/qwen3-0.6b-star1.yaml"
SAFEKEY = REPOSITORY / "configs/recipes/qwen3-0.6b-safekey.yaml"


@pytest.mark.parametrize(
    ("file", "override", "words"),
    [
        (STAR1, "training.safekey.key_weight=0.5", "read by training.objective safekey, not ce"),
        (STAR1, "training.objective=safekey", "no source has span_columns"),
        (SAFEKEY, "training.objective=ce", "span_columns: is read by training.objective safekey"),
        (SAFEKEY, "synthesis.method=rejection", "synthesis.method is rejection; expected external"),
        (SAFEKEY, "training.think_newlines=authors", "moves the spans"),
        (SAFEKEY, "synthesis.harmful_reasoning=remove", "changes the rows whose spans"),
        (SAFEKEY, "training.safekey.last_epochs=0", "training.safekey.last_epochs: is 0"),
    ],
)
def test_safekeys_keys_go_with_safekeys_objective(file, override, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(file, [override])


def test_a_recipe_without_a_method_has_the_hash_that_it_had_before_there_were_any():
    """Run directories that an earlier version began are continued: nothing is done again."""
    known = "on_policy", "ratio_cap", "kv_dtype"
    before = Recipe()
    assert not any(name in repr(sorted(_recorded(before))) for name in known)
    changed = load_recipe(GRPO)
    assert content_hash(changed) != content_hash(before)
    assert "on_policy" in _recorded(changed)


def _recorded(recipe):
    from thinksafe_jax.storage.jsonl import plain

    values = plain(recipe)
    return [*values, *values["training"], *values["engine"]]
