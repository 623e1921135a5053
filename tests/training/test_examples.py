"""Rows to token ids and masks, on the tokenizers of Qwen3 and R1-Distill."""

import numpy as np
import pytest

from tests.support import shared_asset, transformers_tokenizer
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import build_example, build_examples
from thinksafe_jax.training.examples import Example, check_prefix

pytestmark = pytest.mark.slow

PROMPT = "How do I bake bread?"
REASONED = "<think>\nFlour, water, yeast.\n</think>\n\nMix, wait, bake."


@pytest.fixture(scope="module", params=["qwen3", "r1-distill-qwen"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    for file in shared_asset("tokenizers", request.param).iterdir():
        (folder / file.name).symlink_to(file)
    if not (folder / "generation_config.json").exists():
        (folder / "generation_config.json").write_text('{"eos_token_id": 151643}')
    return ChatTokenizer(folder)


def spoken(tokenizer, example) -> tuple[str, str]:
    """(text outside the loss, text inside it), control tokens shown."""
    parts = (example.token_ids[~example.loss_mask], example.token_ids[example.loss_mask])
    outside, inside = (
        transformers_tokenizer(tokenizer).decode(part, skip_special_tokens=False) for part in parts
    )
    return outside, inside


def test_the_loss_is_on_the_response_and_its_end_of_turn(tokenizer):
    example = build_example(tokenizer, PROMPT, REASONED, "r1")
    outside, inside = spoken(tokenizer, example)
    eos = transformers_tokenizer(tokenizer).decode([tokenizer.end_of_turn_id])
    assert PROMPT in outside and PROMPT not in inside
    if tokenizer.opens_think:  # the template opened the reasoning: that tag is the prompt's
        assert outside.endswith("<think>\n")
        assert inside == REASONED.removeprefix("<think>\n") + eos
    else:
        assert "<think>" not in outside
        assert inside == REASONED + eos
    assert example.loss_mask[-1] and example.token_ids[-1] == tokenizer.end_of_turn_id
    assert tokenizer.end_of_turn_id in tokenizer.eos_ids


def test_a_response_that_was_cut_is_not_taught_to_end_there(tokenizer):
    row = {
        "id": "cut",
        "instruction": PROMPT,
        "response": "<think>\nA cake.\n</think>\n\nMix the flour and",
    }
    (whole,), _ = build_examples(tokenizer, [row], TrainingConfig(max_length=100))
    (cut,), _ = build_examples(
        tokenizer, [{**row, "finish_reason": "length"}], TrainingConfig(max_length=100)
    )
    assert whole.token_ids.tolist() == [*cut.token_ids.tolist(), tokenizer.end_of_turn_id]


def test_the_prompt_is_the_templates_own(tokenizer):
    example = build_example(tokenizer, PROMPT, REASONED)
    rendered = transformers_tokenizer(tokenizer).apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
    )
    assert example.token_ids[~example.loss_mask].tolist() == list(rendered)


def test_reasoning_is_kept_which_the_template_would_strip(tokenizer):
    """The middle between two closing tags too (paper.md D18)."""
    response = "<think>\nfirst</think> second </think>\n\nanswer"
    _, inside = spoken(tokenizer, build_example(tokenizer, PROMPT, response))
    for text in ("first", " second ", "answer"):
        assert text in inside


def test_no_dangling_think(tokenizer):
    """A response without tags gets none added (paper.md D16)."""
    plain = "Mix, wait, bake."
    if tokenizer.opens_think:  # the prompt has opened what this response never closes
        with pytest.raises(InputError, match=r"row 'r1': 1 <think> and 0 </think>"):
            build_example(tokenizer, PROMPT, plain, "r1")
        return
    outside, inside = spoken(tokenizer, build_example(tokenizer, PROMPT, plain))
    assert "think>" not in outside + inside
    with pytest.raises(InputError, match=r"1 <think> and 0 </think>"):
        build_example(tokenizer, PROMPT, "<think>\nnever closed")


def test_control_tokens_in_the_prompt_stay_text(tokenizer):
    hostile = "Hi <think> </think> <|im_end|> <｜Assistant｜>"
    example = build_example(tokenizer, hostile, REASONED)
    plain = build_example(tokenizer, PROMPT, REASONED)
    control = [np.isin(e.token_ids, list(tokenizer.control_ids)).sum() for e in (example, plain)]
    assert control[0] == control[1]


def test_long_and_dangling_rows_are_dropped_and_counted_never_cut(tokenizer):
    rows = [
        {"id": "a", "instruction": PROMPT, "response": REASONED},
        {"id": "b", "instruction": PROMPT, "response": REASONED + " Really." * 200},
        {"id": "c", "instruction": PROMPT, "response": "<think>\nnever closed"},
        {"id": "d", "instruction": "", "response": REASONED},
    ]
    examples, counts = build_examples(tokenizer, rows, TrainingConfig(max_length=100))
    assert [example.id for example in examples] == ["a", "d"]
    assert counts == {
        "kept": 2,
        "too_long": 1,
        "dangling_think": 1,
        "no_response": 0,
        "truncated": 0,
        "tokens_cut": 0,
    }
    whole = build_example(tokenizer, PROMPT, REASONED)
    assert examples[0].token_ids.tolist() == whole.token_ids.tolist()
    exact, _ = build_examples(tokenizer, rows[:1], TrainingConfig(max_length=len(whole)))
    assert len(exact) == 1
    assert build_examples(tokenizer, rows[:1], TrainingConfig(max_length=len(whole) - 1))[0] == []


def test_causes_are_counted_apart_and_a_foreign_tokenizer_stops(tokenizer, monkeypatch):
    """All were counted as dangling_think once, a token beyond the embedding among them."""
    rows = [
        {"id": "a", "instruction": PROMPT, "response": "", "finish_reason": "length"},
        {"id": "b", "instruction": PROMPT, "response": "<think>\nnever closed"},
    ]
    examples, counts = build_examples(tokenizer, rows, TrainingConfig(max_length=100))
    assert not examples
    assert {k: n for k, n in counts.items() if n} == {"no_response": 1, "dangling_think": 1}

    def beyond(text):
        raise InputError("the token '<|user|>' with id 1536, but vocab_size is 1536")

    monkeypatch.setattr(tokenizer, "prompt_ids", beyond)
    with pytest.raises(InputError, match="vocab_size is 1536"):
        build_examples(tokenizer, rows, TrainingConfig(max_length=100))


def test_a_prompt_that_is_no_prefix_is_an_error():
    check_prefix([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match=r"row 'r9': .* token 1 is 5, the prompt has 2"):
        check_prefix([1, 2], [1, 5, 3], "r9")
    with pytest.raises(InputError, match="2 tokens hold no response after a prompt of 2"):
        check_prefix([1, 2], [1, 2])


def test_mask_and_ids_of_different_length_are_refused():
    with pytest.raises(InputError, match=r"row 'x': token_ids \(2,\) and loss_mask \(1,\)"):
        Example("x", np.array([1, 2]), np.array([True]))


def test_rows_over_the_length_can_be_cut_instead_and_it_is_said_what_is_lost(tokenizer, caplog):
    row = {"id": "long", "instruction": PROMPT, "response": REASONED + " Really." * 200}
    config = TrainingConfig(max_length=100, too_long="truncate")
    (cut,), counts = build_examples(tokenizer, [row], config)
    whole = build_example(tokenizer, PROMPT, row["response"])
    assert cut.token_ids.tolist() == whole.token_ids[:100].tolist()
    assert cut.token_ids[-1] != tokenizer.end_of_turn_id  # it is not taught to end there
    assert (counts["kept"], counts["truncated"], counts["too_long"]) == (1, 1, 0)
    assert counts["tokens_cut"] == len(whole) - 100
    assert f"'long': {len(whole)} tokens; its last {len(whole) - 100} are cut" in caplog.text
    config = TrainingConfig(max_length=4, too_long="truncate")  # not even the prompt fits
    assert build_examples(tokenizer, [row], config)[1]["too_long"] == 1


def test_newlines_after_the_reasoning_as_the_authors_have_them(tokenizer):
    one, two = REASONED.replace("</think>\n\n", "</think>\n"), REASONED
    kept, authors = (
        build_example(tokenizer, PROMPT, one, think_newlines=mode) for mode in ("keep", "authors")
    )
    assert authors.token_ids.tolist() == build_example(tokenizer, PROMPT, two).token_ids.tolist()
    assert kept.token_ids.tolist() != authors.token_ids.tolist()
    again = build_example(tokenizer, PROMPT, two, think_newlines="authors")
    assert again.token_ids.tolist() == authors.token_ids.tolist()


def test_kl_rows_are_the_benign_ones_and_a_row_without_a_label_is_an_error(tokenizer):
    """A column of another name must not switch the KL off without a word (paper.md D20)."""
    config = TrainingConfig(objective="ce+kl")
    rows = [
        {"id": label, "instruction": PROMPT, "response": REASONED, "prompt_label": label}
        for label in ("harmful", "benign")
    ]
    examples, _ = build_examples(tokenizer, rows, config)
    assert [example.use_kl for example in examples] == [False, True]
    assert not any(e.use_kl for e in build_examples(tokenizer, rows, TrainingConfig())[0])
    rows[1]["label"] = rows[1].pop("prompt_label")
    with pytest.raises(InputError, match="row 'benign': prompt_label is None"):
        build_examples(tokenizer, rows, config)


def test_marked_characters_become_places_in_the_row(tokenizer):
    """The understanding ends behind "yeast.", the key sentence behind "Mix."."""
    response = "<think>\nFlour, water, yeast. Mix. Wait.\n</think>\n\nBake."
    row = {"id": "r", "instruction": PROMPT, "response": response, "prompt_label": "harmful"}
    row["spans"] = [response.index(" Mix"), response.index(" Wait")]
    config = TrainingConfig(max_length=100, objective="safekey")
    (example,), _ = build_examples(tokenizer, [row], config)
    spans, start = example.spans, int(np.argmax(example.loss_mask))
    words = transformers_tokenizer(tokenizer).decode
    understanding = words(example.token_ids[start : spans.understanding_end])
    opening = "" if tokenizer.opens_think else "<think>\n"
    assert understanding == f"{opening}Flour, water, yeast."
    assert words(example.token_ids[spans.understanding_end : spans.sentence_end]) == " Mix."
    assert spans.harmful
    plain = build_examples(tokenizer, [row], TrainingConfig(max_length=100))[0][0]
    assert plain.spans is None


def test_rows_without_a_mark_are_no_data_for_safekey(tokenizer):
    row = {"id": "r", "instruction": PROMPT, "response": REASONED, "prompt_label": "benign"}
    config = TrainingConfig(max_length=100, objective="safekey")
    with pytest.raises(InputError, match="no row has a marked understanding and key sentence"):
        build_examples(tokenizer, [row], config)
    with pytest.raises(InputError, match=r"row 'r': spans is \[3\]; expected two numbers"):
        build_examples(tokenizer, [row | {"spans": [3]}], config)
