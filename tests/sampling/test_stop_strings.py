"""Stop strings: a completion is what it would have been, up to the first of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.sampling.kit import GREEDY, engine, requests
from tests.tokenizer.kit import edit, student
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.sampling import Completion, Engine
from thinksafe_jax.sampling.stop_strings import StopStrings
from thinksafe_jax.sampling.text_requests import text_requests, with_texts
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import resolve_model

QUESTIONS = ["What is 17 + 25?", "How do I bake bread?", "What is 33 + 44?", "What is 15 + 51?"]
LONG = replace(GREEDY, max_new_tokens=40)


@pytest.fixture(scope="module")
def tokenizer():
    return ChatTokenizer(resolve_model("mini:student"))


@pytest.mark.parametrize("seen", [0, 2, 4])
def test_the_first_string_that_is_complete_ends_it_at_that_token(tokenizer, seen):
    text = "one two three\n\nfour five"
    tokens = tokenizer.encode_text(text)
    ends = StopStrings.of(["five", "\n\nfo"], tokenizer)
    assert ends is not None
    kept = ends(tokens, seen)
    assert kept is not None
    assert "\n\nfo" in tokenizer.decode(tokens[:kept])
    assert "\n\nfo" not in tokenizer.decode(tokens[: kept - 1])
    assert ends(tokens[: kept - 1], seen) is None
    assert ends.before(text) == "one two three"
    assert ends.before("nothing of it") == "nothing of it"


def test_a_string_that_began_long_before_is_seen(tokenizer):
    stop = "a long stop string of many words, that ends here."
    tokens = tokenizer.encode_text(f"{'word ' * 50}{stop}")
    ends = StopStrings.of(stop, tokenizer)
    assert ends is not None
    assert ends(tokens, len(tokens) - 1) == len(tokens)


def test_what_is_no_stop_string_is_refused(tokenizer):
    assert StopStrings.of((), tokenizer) is StopStrings.of(None, tokenizer) is None
    for wrong in ("", ["a", ""], [3]):
        with pytest.raises(InputError, match="is no text of one character or more"):
            StopStrings.of(wrong, tokenizer)


def test_what_the_template_has_written_ends_nothing(tmp_path):
    """R1's opens the reasoning, which is in the text of every completion."""
    folder = student(tmp_path / "opening")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    opening = settings["chat_template"] + "{% if add_generation_prompt %}<think>\n{% endif %}"
    edit(folder / "tokenizer_config.json", chat_template=opening)
    tokenizer = ChatTokenizer(folder)
    asked = text_requests(["a"], GREEDY, 1, tokenizer, 900, stop=["think", "\n\n"])
    for said, text in (
        ("\nI add.", "<think>\n\nI add."),
        ("I add.\n\nI think.", "<think>\nI add."),
        ("I think.", "<think>\nI "),
    ):
        done = Completion("0", 0, tokenizer.encode_text(said), [], "stop")
        assert [c.text for c in with_texts(asked, [done], tokenizer)] == [text]


@pytest.mark.slow
@pytest.mark.parametrize(("window", "draft"), [(8, "off"), (2, "always")])
def test_rows_are_cut_and_their_slots_serve_others(window, draft):
    """Two slots and twice as many rows: a slot that a string has freed goes to the next row."""
    shape = {"slots": 2, "window": window, "draft": draft, "pool_tokens": 512, "max_length": 128}
    sampler = Engine.from_pretrained("mini:student", dtype="float32", page_size=16, **shape)
    free = sampler.generate(QUESTIONS, LONG)
    whole = sampler.stats.tokens
    stops = ["carry", " the steps", "\n"]
    cut = sampler.generate(QUESTIONS, LONG, stop=stops)
    for before, after in zip(free, cut, strict=True):
        kept = len(after.token_ids)
        assert after.token_ids == before.token_ids[:kept]
        np.testing.assert_allclose(after.logprobs, before.logprobs[:kept], atol=1e-4)
        first = min((p for s in stops if (p := before.text.find(s)) >= 0), default=None)
        assert after.text == before.text[:first]
        assert (after.finish_reason == "stop") or first is None
    assert sampler.stats.tokens < whole  # nothing is drawn that nobody sees, but for a window
    assert [c.token_ids for c in sampler.generate(QUESTIONS, LONG)] == [c.token_ids for c in free]


def test_requests_say_themselves_when_they_end(model):
    sampler = engine(model)
    with pytest.raises(InputError, match="requests have their own sampling options"):
        sampler.generate(requests(2), stop="x")
    asked = [replace(r, stop=lambda tokens, seen: 5 if len(tokens) >= 5 else None)
             for r in requests(3, SamplingConfig(1.0, max_new_tokens=20))]  # fmt: skip
    free = {c.id: c for c in engine(model, eos=()).generate([replace(r, stop=None) for r in asked])}
    for done in engine(model, eos=()).generate(asked):
        assert (done.token_ids, done.finish_reason) == (free[done.id].token_ids[:5], "stop")


@pytest.mark.slow
@pytest.mark.parametrize("sampling_logprobs", [False, True])
def test_a_request_may_keep_nothing(model, sampling_logprobs):
    shape = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)
    sampler = Engine(*model[:2], shape, eos_ids=(), sampling_logprobs=sampling_logprobs)
    asked = [replace(r, stop=lambda tokens, seen: 0) for r in requests(3)]
    for done in sampler.generate(asked):
        assert (done.token_ids, done.logprobs, done.finish_reason) == ([], [], "stop")


def test_two_requests_that_would_draw_the_same_are_refused(model):
    first, second = requests(2)
    twins = [first, second, replace(second, id=first.id)]
    with pytest.raises(InputError, match=r"row-0: two requests have this id and sample 0"):
        engine(model).generate(twins)
    assert len(list(engine(model).generate([first, replace(first, sample=1)]))) == 2
