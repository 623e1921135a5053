"""A process that renders one chat template; `chat_template.py` starts it as a script.

The arguments of transformers' `render_jinja_template` as JSON in, the text as JSON out. It imports
nothing of the package, and sets its own limits before it looks at the template.
"""

import json
import resource
import sys

MOST_SECONDS = 2  # of processor time
MOST_MEMORY = 2**29  # bytes beyond what the imports took


def limit() -> None:
    """Ends this process where a template loops or grows without end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + MOST_SECONDS, spent + MOST_SECONDS + 1))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_MEMORY, mapped + MOST_MEMORY))


def main() -> None:
    """Reads, renders, writes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit()
    asked = json.load(sys.stdin)
    try:
        text = render_jinja_template(**asked)[0][0]
    except Exception as error:  # whatever a template does, one line says it
        sys.exit(f"{type(error).__name__}: {error}"[:300].replace("\n", " "))
    json.dump(text, sys.stdout)


if __name__ == "__main__":
    main()
