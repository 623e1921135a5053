"""A checkpoint's chat template, rendered where it can do no harm (fault 43).

A template is a program that comes with a download. Jinja's sandbox keeps it away from the
interpreter, but not from loops without end or texts of gigabytes. So only templates known by their
hash are rendered here; any other in a process of its own, under limits.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError

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


def render_chat(
    tokenizer: Any, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False
) -> str:
    """The conversation as transformers' `apply_chat_template(tokenize=False)` writes it.

    Args:
        tokenizer: of transformers; its template and the names of its special tokens are used.
        messages: role and content of each turn.

    Raises:
        InputError: there is no template, it refuses these messages, or it exceeds the limits.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(f"no chat template: {error}") from None
    names = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    asked = {
        "conversations": [list(messages)],
        "chat_template": template,
        "add_generation_prompt": add_generation_prompt,
        **names,
    }
    if hashlib.sha256(template.encode()).hexdigest() not in KNOWN:
        return _apart(json.dumps(asked))
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        return str(render_jinja_template(**asked)[0][0])
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"the chat template fails: {error}") from None


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
    return json.loads(done.stdout)
