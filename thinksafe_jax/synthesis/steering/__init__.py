"""Steering texts: what harmful prompts are wrapped in while sampling, never while training.

Each file beside this one is a text, named after the file, with `{prompt}` in it once.
"""

import hashlib

from thinksafe_jax.errors import ConfigError, did_you_mean, quoted
from thinksafe_jax.terminal import clean
from thinksafe_jax.variants import Variants

HOLE = "{prompt}"

TEMPLATES: Variants[str] = Variants(__name__, "TEXT", "steering text")
_REPEATED = 24  # characters of a text that show up in an answer


def template_text(name: str) -> str:
    """The text of a template: a known one by its name, or a user's own, which is its own name.

    Raises:
        ConfigError: no template has this name, or the text has not exactly one `{prompt}`.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if name.count(HOLE) == 1:
        return name
    if HOLE in name:
        raise ConfigError(
            f"synthesis.steering: {HOLE} stands {name.count(HOLE)} times; once, please"
        )
    raise ConfigError(
        f"synthesis.steering: no template {quoted(name)}{did_you_mean(name, TEMPLATES)} (choose "
        f"from {', '.join(TEMPLATES)}, or write a text of your own with {HOLE} in it)"
    )


def steering_of(name: str, label: str) -> str:
    """The name of what a prompt of this label really gets: `name` if harmful, else "none".

    A text of the user's own is called after its hash, `own-1a2b3c4d`.

    Raises:
        ConfigError: as `template_text`.
    """
    text = template_text(name)
    if label != "harmful":
        return "none"
    return name if name in TEMPLATES else f"own-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def short_name(name: str) -> str:
    """A template's name for a table or plot: a user's own text in one line, cut after 24."""
    line = " ".join(clean(name).split())
    return line if len(line) <= 24 else f"{line[:23]}…"


def steer(name: str, text: str, label: str) -> str:
    """The user turn that is sampled from: harmful prompts inside the template, others untouched.

    The text is placed literally, so braces and percent signs in it mean nothing.
    """
    before, after = template_text(name if label == "harmful" else "none").split(HOLE)
    return before + text + after


def repeats_steering(name: str, response: str) -> bool:
    """Whether a response holds a stretch of the template around the prompt, word for word.

    What the prompt itself says may be repeated.
    """
    for text in template_text(name).split(HOLE):
        text = text.strip()
        starts = range(0, len(text) - _REPEATED + 1, _REPEATED // 2)
        if any(text[start : start + _REPEATED] in response for start in starts):
            return True
    return False
