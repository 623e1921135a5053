"""Runs the commands of the site's pages, page by page: python scripts/site/check_commands.py

Every fence of bash or Python in docs/ is run in a folder of its page, in order, unless it has a
title, which says to readers what it takes ("needs a TPU VM", "takes minutes"). Ends with 1 where a
command fails, and where one stands in an indented block, where this check would not see it.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_FENCE = re.compile(r"^```(bash|python)(?: title=\"(.*?)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t)(thinksafe|pip|make|bash|python|gcloud) .*$", re.MULTILINE)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each fence that is to be run."""
    for language, title, code in _FENCE.findall(text):
        if not title:
            yield language, code


def hidden(text: str) -> list[str]:
    """Commands in indented blocks; those within a fence are no concern."""
    return [match[0].strip() for match in _INDENTED.finditer(_FENCE.sub("", text))]


def run(language: str, code: str, folder: Path) -> int:
    """Runs one block in `folder` with this interpreter's commands; its exit code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code]
    if language == "python":
        command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}).returncode


def main() -> int:
    failed: list[str] = []
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(DOCS)
        failed += [f"{name}: in an indented block: {line}" for line in hidden(text)]
        with tempfile.TemporaryDirectory() as folder:
            for language, code in blocks(text):
                print(f"== {name}\n{code}", flush=True)
                start = time.monotonic()
                if status := run(language, code, Path(folder)):
                    failed.append(f"{name}: exit code {status}: {code.splitlines()[0]}")
                print(f"== {time.monotonic() - start:.0f} s", flush=True)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
