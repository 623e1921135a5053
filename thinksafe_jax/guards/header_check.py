"""Whether a checkpoint is a guard of the kind that a recipe says; its weights are not read."""

import logging
from pathlib import Path

from thinksafe_jax.config import GuardModel
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.guards.answer_form import AnswerForm
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.guards.template import chat_template
from thinksafe_jax.tokenizer import ChatTokenizer

_log = logging.getLogger(__name__)


def check_guard(cfg: GuardModel, folder: Path) -> None:
    """Compares a checkpoint's template and tokenizer with the guard's kind.

    Args:
        folder: of a checkpoint, with or without its weights.

    Raises:
        ConfigError: its template is that of another family.
        InputError: template, tokenizer and format do not belong together.
    """
    tokenizer, chosen = ChatTokenizer(folder), FORMATS[cfg.kind]
    text = _template_text(tokenizer)
    signs = {kind: FORMATS[kind].sign for kind in FORMATS}
    shown = [kind for kind, sign in signs.items() if sign and sign in text]
    if shown and cfg.kind not in shown:
        raise ConfigError(
            f"kind is {cfg.kind}, but the chat template of {cfg.model} is that of a {shown[0]}; "
            f"set kind to {shown[0]}, or name another model"
        )
    prompt = chosen.template(tokenizer, cfg.authors_compat)
    AnswerForm(prompt, chosen.slots(prompt))  # refuses words that are no words of the tokenizer
    if chosen.sign and not shown:
        _log.warning(
            "guard %s: its chat template has not the words of a %s; if it is none, its verdicts "
            "mean nothing", cfg.model, cfg.kind,
        )  # fmt: skip


def _template_text(tokenizer: ChatTokenizer) -> str:
    """The fixed texts of the chat template; "" where there is none that can be used."""
    try:
        return "".join(chat_template(tokenizer).segments(2))
    except InputError:
        return ""
