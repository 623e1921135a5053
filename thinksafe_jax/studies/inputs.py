"""What is refused before anything runs: files that cannot be read, splits that share prompts."""

import logging
from collections.abc import Mapping

from thinksafe_jax.config import PromptSource
from thinksafe_jax.data import Question, load_questions, read_prompts
from thinksafe_jax.errors import EnvironmentFault, InputError, quoted
from thinksafe_jax.studies.study_file import SPLITS, Study

_log = logging.getLogger(__name__)


def check_inputs(study: Study) -> None:
    """Reads every file of prompts and questions once.

    Raises:
        InputError: one cannot be read, or a question is in both splits.
        ConfigError: an unknown suite.
    """
    read: list[tuple[PromptSource, ...]] = []
    for method in study.methods:
        for setting in method.settings:
            sources = tuple(setting.recipe.synthesis.prompts)
            local = [source for source in sources if not source.path.startswith("hf:")]
            if local and sources not in read:
                read_prompts(local, require_label=True)
            read.append(sources)
    asked = {split: _questions(study, split) for split in SPLITS}
    shared = asked["validation"].keys() & asked["heldout"].keys()
    if shared:
        example = asked["validation"][min(shared)]
        raise InputError(
            f"{study.path}: {len(shared):,} prompts are in validation and in heldout as well, such "
            f"as {quoted(example.prompt)} ({example.suite}); settings would be chosen by what the "
            "table reports. Take another file, or other rows of it (start, limit)"
        )


def _questions(study: Study, split: str) -> Mapping[str, Question]:
    """Questions by their text, but for case and spaces."""
    try:
        items = load_questions(getattr(study.config, split)).items
    except EnvironmentFault as error:
        _log.warning("the questions of %s are not compared: %s", split, error)
        return {}
    return {_plain(item.prompt): item for item in items}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
