"""The prompts that training never saw, asked before and after it: both sides of safety, at once.

A quick look beside the loss on the same rows, by refusal phrases alone; the evaluation judges.
"""

import logging
from collections.abc import Sequence
from typing import Any

from thinksafe_jax.data import HARMFUL, LABELS
from thinksafe_jax.guards import answer_part, is_refusal
from thinksafe_jax.pipeline.session import Session
from thinksafe_jax.runs import Run
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.synthesis import read_dataset
from thinksafe_jax.training import build_examples, hold_out

log = logging.getLogger(__name__)
Row = dict[str, str]


def ask_held_out(run: Run, session: Session) -> None:
    """Logs, for the untouched and for the exported student, how many answered and how many refused.

    Nothing where `training.heldout_rows` is 0, or where several processes work on the run.
    """
    cfg = run.recipe.training
    if not cfg.heldout_rows or run.group.count > 1:
        return
    rows = list(read_dataset(run.data))
    examples, _ = build_examples(session.tokenizer, rows, cfg)
    held_out = {e.id for e in hold_out(examples, cfg.heldout_rows, run.recipe.seed)[1]}
    asked = [row for row in rows if row["id"] in held_out and row.get("prompt_label") in LABELS]
    said = []
    for when, tuned in (("before", None), ("after", run.path)):
        counts = _ask(session.engine(tuned), session, asked)
        run.log("heldout", when=when, **counts)
        said.append(
            f"{when} {counts['harmful_answered']} of {counts['harmful']} harmful prompts answered, "
            f"{counts['benign_refused']} of {counts['benign']} benign ones refused"
        )
    log.info("prompts held out of training, by refusal phrases: %s", "; ".join(said))


def _ask(engine: Engine, session: Session, rows: Sequence[Row]) -> dict[str, Any]:
    """How many prompts of each label got an answer that can be read, and which side it took."""
    sampling, tokenizer = session.recipe.evaluation.sampling, session.tokenizer
    labels = {row["id"]: row["prompt_label"] for row in rows}
    requests = [Request(r["id"], tokenizer.prompt_ids(r["instruction"]), sampling) for r in rows]
    counts: dict[str, Any] = dict.fromkeys(
        ("harmful", "harmful_answered", "benign", "benign_refused"), 0
    )
    for done in engine.generate([r for r in requests if engine.refuses(r) is None]):
        text = tokenizer.decode(done.token_ids)
        if not answer_part(text):
            continue
        label, refused = labels[done.id], is_refusal(text)
        counts[label] += 1
        if label == HARMFUL:
            counts["harmful_answered"] += not refused
        else:
            counts["benign_refused"] += refused
    return counts
