"""What a model or a prompt writes cannot act on the terminal (fault 44)."""

import io
import logging

import pytest
from rich.console import Console

from thinksafe_jax import terminal
from thinksafe_jax.terminal import Progress, clean


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("a\x9b31mb", "ab"),
        ("safe\roverwritten", "safeoverwritten"),
        ("bell\x07 back\x08 nul\x00 del\x7f", "bell back nul del"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\ud800", "?"),
        ("\x1b", ""),
        ("a\x1b(0b\x1bcd", "abd"),
        ("kept\ttab\nline é 🦜 [bold]", "kept\ttab\nline é 🦜 [bold]"),
        ("dos\r\nline", "dos\nline"),
    ],
)
def test_escapes_and_controls_are_stripped_and_text_stays(hostile, shown):
    assert clean(hostile) == shown


def recorded(is_terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=is_terminal, width=120), text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_no_escape_from_outside(is_terminal):
    console, text = recorded(is_terminal)
    with Progress("sample \x1b]0;owned\x07[red]x[/red]", 2, console=console) as bar:
        bar.advance(2, last="\x1b[5mblink\x1b[31m\nline")
    assert "owned" not in text.getvalue()
    assert "[5m" not in text.getvalue()
    assert "sample [red]x[/red]" in text.getvalue()


def test_off_a_terminal_there_is_a_line_every_thirty_seconds_and_one_at_the_end(monkeypatch):
    console, text = recorded(False)
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Progress("sample", 100, start=10, console=console) as bar:
        for _ in range(45):
            now[0] += 1.0
            bar.advance(2, loss=0.123456)
    lines = text.getvalue().splitlines()
    assert lines == [
        "sample: 70/100 rows, 30 s, 2/s, 15 s left, loss 0.1235",
        "sample: 100/100 rows, 45 s, 2/s, loss 0.1235 (done)",
    ]


def test_the_time_that_is_left_leaves_out_what_was_compiled_before(monkeypatch):
    """1 of 1,000 rows after 43 s of compiling once had 42,647 s left."""
    console, text = recorded(False)
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Progress("judge", 1000, console=console) as bar:
        now[0] = 43.0
        bar.advance(1, tokens_per_s=12345.6, well_formed=1)
        now[0] = 74.0
        bar.advance(99)
    first, second, _ = text.getvalue().splitlines()
    assert first == "judge: 1/1000 rows, 43 s, 0.0233/s, tokens/s 12,346, well formed 1"
    assert "282 s left" in second  # 900 rows at 99 in 31 s


def test_a_stage_that_failed_does_not_say_done():
    console, text = recorded(False)
    with pytest.raises(KeyError), Progress("train", 5, unit="steps", console=console) as bar:
        bar.advance()
        raise KeyError
    assert "1/5 steps" in text.getvalue()
    assert "(stopped)" in text.getvalue()


def test_log_lines_are_cleaned(capsys, monkeypatch):
    logger = logging.getLogger("thinksafe_jax")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    terminal.setup_logging()
    terminal.setup_logging()
    logger.warning("row %s", "\x1b[2Jx [bold]y[/bold]")
    assert capsys.readouterr().err == "row x [bold]y[/bold]\n"
