"""A recipe beside the paper's numbers and beside another recipe."""

from dataclasses import replace

from thinksafe_jax.config import (
    RESUMABLE_KEYS,
    PromptSource,
    Recipe,
    SamplingConfig,
    diff,
    paper_differences,
)


def test_the_defaults_are_the_papers_numbers():
    """Paper 5.1 and B.1; the constants are written out here, not read from the dataclasses."""
    recipe = Recipe()
    s, t = recipe.synthesis.sampling, recipe.training
    assert (s.temperature, s.top_p, s.top_k, s.max_new_tokens) == (0.6, 0.95, 20, 16384)
    assert (t.lora_r, t.lora_alpha, t.lora_dropout) == (32, 16, 0.05)
    assert (t.learning_rate, t.warmup_ratio, t.clip_norm, t.weight_decay) == (1e-5, 0.1, 1.0, 0.0)
    assert (t.batch_size, t.epochs, t.lora_targets) == (8, 3, ["q_proj", "v_proj"])
    assert paper_differences(recipe) == []


def test_every_change_of_the_method_is_listed():
    recipe = Recipe()
    changed = replace(
        recipe,
        training=replace(recipe.training, epochs=1, learning_rate=1e-3, lora_targets=["q_proj"]),
        synthesis=replace(recipe.synthesis, reasoning="none", sampling=SamplingConfig(top_k=0)),
        guard=replace(recipe.guard, kind="refusal-match"),
        engine=replace(recipe.engine, kv_dtype="int8"),
    )
    assert set(map(str, paper_differences(changed))) == {
        "('training.epochs', 3, 1)",
        "('training.learning_rate', 1e-05, 0.001)",
        "('training.lora_targets', ['q_proj', 'v_proj'], ['q_proj'])",
        "('synthesis.reasoning', 'think', 'none')",
        "('synthesis.sampling.top_k', 20, 0)",
        "('guard.kind', 'llama-guard', 'refusal-match')",
        "('engine.kv_dtype', 'model', 'int8')",
    }


def test_how_work_is_cut_up_is_no_difference_of_the_method():
    recipe = Recipe()
    changed = replace(
        recipe,
        engine=replace(recipe.engine, slots=2),
        training=replace(recipe.training, micro_batch_size=1, remat="none", checkpoint_every=5),
        synthesis=replace(recipe.synthesis, prompts=[PromptSource(path="mini:x")]),
    )
    assert paper_differences(changed) == []


def test_diff_names_each_changed_key_with_both_values():
    recipe = Recipe()
    changed = replace(recipe, seed=7, training=replace(recipe.training, epochs=1))
    assert diff(recipe, changed) == "seed: 42 -> 7\ntraining.epochs: 3 -> 1"
    assert diff(recipe, recipe) == ""


def test_diff_of_prompt_lists_shows_only_what_changed_inside():
    def with_prompts(*sources):
        return replace(Recipe(), synthesis=replace(Recipe().synthesis, prompts=list(sources)))

    before = with_prompts(PromptSource(path="a.jsonl"), PromptSource(path="b.jsonl"))
    after = with_prompts(PromptSource(path="a.jsonl"), PromptSource(path="b.jsonl", limit=5))
    assert diff(before, after).splitlines() == [
        "synthesis.prompts:",
        "  -[1].limit: None",
        "  +[1].limit: 5",
    ]


def test_harmless_keys_are_left_out_of_a_diff_when_asked():
    recipe = Recipe()
    changed = replace(recipe, name="b", training=replace(recipe.training, keep_checkpoints=9))
    assert diff(recipe, changed, ignore=RESUMABLE_KEYS) == ""
    other_engine = replace(recipe, engine=replace(recipe.engine, slots=1))
    assert diff(recipe, other_engine, ignore=RESUMABLE_KEYS) == "engine.slots: 64 -> 1"
