"""Prompts that were edited between two starts of a run: its rows answer what was asked then."""

from collections.abc import Iterable, Mapping
from typing import Any

from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError, quoted

_SHOWN = 8  # prompts named in a refusal


class EditedPrompts:
    """Compares the rows of samples/ with the prompts of today, row by row as they are read.

    New prompts are no edit: they are sampled beside the others.

    Args:
        prompts: all that the run takes now.
        method: `SynthesisConfig.method`; responses of "external" come from the prompts' files.
    """

    def __init__(self, prompts: Iterable[Prompt], method: str):
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._external = method == "external"
        self._edits: dict[str, str] = {}  # {id: what differs}

    def look_at(self, row: Mapping[str, Any]) -> None:
        """Takes note of a row whose prompt is another now."""
        prompt = self._prompts.get(row["id"])
        if prompt is None:
            self._edits[row["id"]] = "is gone"
        elif prompt.text != row["prompt"]:
            self._edits[row["id"]] = "has another text"
        elif prompt.label != row["label"]:
            self._edits[row["id"]] = f"is {prompt.label} now, was {row['label']}"
        elif self._external and row["response"] not in ("", prompt.response):
            self._edits[row["id"]] = "has another response"

    def refuse(self) -> None:
        """Call when all rows were looked at.

        Raises:
            InputError: some prompts were edited, or are taken no longer.
        """
        if not self._edits:
            return
        named = [f"{quoted(id)} {what}" for id, what in list(self._edits.items())[:_SHOWN]]
        more = f" and {len(self._edits) - _SHOWN} more" if len(self._edits) > _SHOWN else ""
        raise InputError(
            f"{len(self._edits)} prompts were edited since this run sampled them: "
            f"{', '.join(named)}{more}. The rows that are there answer the old ones. Undo the "
            "edit, or begin a new run: --new-run, or another --run-dir"
        )
