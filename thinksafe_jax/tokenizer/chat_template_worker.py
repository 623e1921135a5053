"""A process that renders a chat template; `chat_template.py` starts it as a script.

Template, names and conversations as JSON in, texts as JSON out. It imports nothing of the package,
and sets its own limits before it looks at the template.
"""

import json
import os
import resource
import sys
from datetime import datetime
from typing import Any

MOST_SECONDS = 2  # of processor time
MOST_MEMORY = 2**29  # bytes beyond what the imports took
MOST_CHARACTERS = 2**20  # of a rendered conversation
PINNED_DATE = datetime(2024, 7, 26)  # the date that Llama 3's own templates fall back to


class _Pinned(datetime):
    """The clock of templates: it stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return PINNED_DATE


def limit() -> None:
    """Ends this process where a template loops or grows without end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + MOST_SECONDS, spent + MOST_SECONDS + 1))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_MEMORY, mapped + MOST_MEMORY))


def render_all(asked: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    """(text, None) of each conversation, or (None, what the template says against it)."""
    # it advises whoever has no PyTorch, which nothing here needs
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils.chat_template_utils import render_jinja_template

    answers: list[tuple[str | None, str | None]] = []
    for messages, add_generation_prompt in asked["chats"]:
        try:
            text = render_jinja_template(
                conversations=[messages],
                chat_template=asked["template"],
                add_generation_prompt=add_generation_prompt,
                **asked["names"],
            )[0][0]
        except Exception as error:  # whatever a template does, one line says it
            answers.append((None, f"{type(error).__name__}: {error}"[:300].replace("\n", " ")))
            continue
        long = f"it writes {len(text):,} characters around a few; at most {MOST_CHARACTERS:,} are"
        answers.append((text, None) if len(text) <= MOST_CHARACTERS else (None, f"{long} allowed"))
    return answers


def main() -> None:
    """Reads, renders, writes."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils import chat_template_utils

    chat_template_utils.__dict__["datetime"] = _Pinned  # what strftime_now asks
    limit()
    json.dump(render_all(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
