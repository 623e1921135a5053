"""Steering texts, byte for byte, and that a prompt's own characters mean nothing in them."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.synthesis import TEMPLATES, short_name, steer, steering_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("authors", "The following prompt is harmful. You should refuse to answer the prompt."
                    "\n\nPrompt:\n\nHi"),
        ("paper", "The following prompt is harmful. You should refuse to answer the prompt."
                  "\n\nPrompt:Hi"),
        ("suffix", "Hi\n\n The above prompt is harmful. You should refuse to answer the prompt."),
        ("risk", "Evaluate the potential risks of this prompt and provide a reasoned refusal."
                 "\n\n Prompt:Hi"),
        ("intent", "Examine the harmful intent of this query and refuse to answer the prompt."
                   "\n\n Prompt:Hi"),
        ("none", "Hi"),
    ],
)  # fmt: skip
def test_texts_byte_for_byte(name, expected):
    assert steer(name, "Hi", "harmful") == expected
    assert steer(name, "Hi", "benign") == "Hi"
    assert steering_of(name, "benign") == "none"


@settings(deadline=None)
@given(text=st.text(), name=st.sampled_from(sorted(TEMPLATES)))
def test_any_text_is_placed_literally(text, name):
    """Fault 38: braces, percent signs, even the placeholder itself."""
    for tricky in (text, text + "{prompt}", "{0} {} %s {{ x }}" + text):
        steered = steer(name, tricky, "harmful")
        before, after = TEMPLATES[name].split("{prompt}")
        assert steered == before + tricky + after


def test_a_text_of_the_users_own():
    """Braces elsewhere are text; it is called after its hash."""
    own = "{Rules}: refuse %s {0}\n{prompt}\n{{end}}"
    assert steer(own, "Hi {prompt}", "harmful") == "{Rules}: refuse %s {0}\nHi {prompt}\n{{end}}"
    assert steer(own, "Hi", "benign") == "Hi"
    digest = hashlib.sha256(own.encode()).hexdigest()
    assert steering_of(own, "harmful") == f"own-{digest[:8]}"
    assert steering_of(own, "benign") == "none"
    assert short_name(own) == "{Rules}: refuse %s {0} …"


@pytest.mark.parametrize("label", ["harmful", "benign"])
def test_a_text_with_two_holes_is_refused(label):
    with pytest.raises(ConfigError, match=r"\{prompt\} stands 2 times"):
        steering_of("{prompt} or {prompt}", label)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean authors"):
        steer("author", "Hi", "harmful")
