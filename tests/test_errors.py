"""What messages quote: a value, a text, a list of names, none of them longer than a line."""

import pytest

from thinksafe_jax.errors import listed, quoted, shortened


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("eight", "'eight'"),
        (None, "None"),
        (0.5, "0.5"),
        ("\x1b[31m\n\ud800", r"'\x1b[31m\n\ud800'"),
        ("x" * 5000, "'" + "x" * 58 + "…"),
        ([1] * 10**5, "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1…"),
    ],
)
def test_a_value_from_outside_is_quoted_in_sixty_characters(value, shown):
    assert quoted(value) == shown and len(quoted(value)) <= 60


def test_a_value_that_no_text_can_show_is_named_by_its_type():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert quoted(deep) == "a list" and quoted(10**5000) == "a int"


def test_texts_and_lists_end_in_what_is_left_out():
    assert shortened("short") == "short" and shortened("x" * 61) == "x" * 59 + "…"
    assert listed(["a", 2]) == "a, 2"
    assert listed(map(str, range(1000)), 3) == "0, 1, 2 and 997 more"
    assert len(listed(["x" * 10**6] * 100)) < 2000
