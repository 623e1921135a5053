"""A checkpoint's chat template, rendered where it can do no harm (fault 43).

A template is a program that comes with a download. Jinja's sandbox keeps it away from the
interpreter, but not from loops without end or texts of gigabytes. So only templates known by their
hash are rendered here; any other in a process of its own, under limits.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer.chat_template_worker import render_all

_SCRIPT = Path(__file__).with_name("chat_template_worker.py")
_LONGEST = 60.0  # seconds; the worker's own limit is on its processor time
# sha256 of templates that were read and found harmless
KNOWN = frozenset(
    {
        "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",  # Qwen3
        "56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f",  # R1-Distill
        "5a5561f4ea9576d49d8b81328d0c7c42353549a9d610e0855ff107bf9a04c1f8",  # Llama-Guard-3-8B
        "df3965ba586f628bed4f3bb122cda2cc7502d5fdd87b525d4a3fea37831905f7",  # Llama-Guard-3-1B
        "5a2916bcb33134c7c35604276162f21e4a4be9f382fb9a9968c9894f48328fd3",  # Qwen3Guard-Gen
        "66edfb854931c933d3ac94f507626dd4fa2d5ca0a9b1036b11729d296a7392ac",  # mini:student
        "9f3798b9056b371952fd2fd56377ca8090c96eca2f2a8f888ec6ac010bdabf17",  # mini:guard
    }
)


@dataclass(frozen=True)
class Chat:
    """A conversation to render: role and content of each turn, and whether the model goes on."""

    messages: tuple[dict[str, Any], ...]
    add_generation_prompt: bool = False


def render_chats(
    template: str, names: Mapping[str, str], chats: Sequence[Chat]
) -> list[str | InputError]:
    """Conversations as transformers' `apply_chat_template(tokenize=False)` writes them.

    Where a template asks for today's date, it gets `PINNED_DATE`: a run that is resumed tomorrow,
    or that two hosts share at midnight, asks the same.

    Args:
        template: its source.
        names: special tokens by role, as "bos_token" -> "<s>".

    Returns:
        For each conversation its text, or the error with which the template refuses it.

    Raises:
        InputError: there is no template, or it exceeds the limits.
    """
    if not template:
        raise InputError("no chat template: neither chat_template.jinja nor tokenizer_config.json")
    asked = {
        "template": template,
        "names": dict(names),
        "chats": [[list(c.messages), c.add_generation_prompt] for c in chats],
    }
    if hashlib.sha256(template.encode()).hexdigest() in KNOWN:
        answers = render_all(asked)
    else:
        answers = json.loads(_apart(json.dumps(asked)))
    return [
        InputError(f"the chat template fails: {error}") if text is None else str(text)
        for text, error in answers
    ]


@lru_cache(maxsize=64)
def _apart(asked: str) -> str:
    """Renders in a process of its own; the same question starts it once."""
    command = [sys.executable, "-P", str(_SCRIPT)]  # -P: modules beside the script hide no others
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"the chat template ran longer than {_LONGEST:g} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["stopped at its limit of time or memory"]
        raise InputError(f"the chat template fails: {said[0][:300]}")
    return done.stdout
