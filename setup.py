"""What pyproject.toml cannot say: the README as PyPI shows it, without links that lead nowhere.

A link to a file of the repository becomes one to the repository on the web, at the tag of this
version, where `[project.urls]` names it as Repository; else its text alone stays. Pictures go the
same way.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def page_on_pypi(text: str, repository: str | None, version: str) -> str:
    """The text of a README without links that only a clone has."""

    def on_the_web(link: re.Match[str]) -> str:
        picture, label, path = link.groups()
        if repository is None:
            return "" if picture else label
        kind = "raw" if picture else "blob"
        return f"{picture}[{label}]({repository.rstrip('/')}/{kind}/v{version}/{path})"

    return _LINK.sub(on_the_web, text)


def _version() -> str:
    text = (ROOT / "thinksafe_jax/version.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=page_on_pypi(readme, project["urls"].get("Repository"), _version()),
        long_description_content_type="text/markdown",
    )
