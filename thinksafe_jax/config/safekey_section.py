"""The section `training.safekey`: losses beside the cross-entropy, on rows with marked spans."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from thinksafe_jax.config.limits import COUNT, POSITIVE, SHARE


@dataclass(frozen=True)
class SafeKeyConfig:
    """What the losses of SafeKey weigh (arXiv 2505.16186, and its train/sft.py)."""

    last_epochs: Annotated[int, COUNT] = 2  # of the run, in which both are added
    # cross-entropy of the key sentence, predicted without the prompt
    key_weight: Annotated[float, POSITIVE] = 0.2
    # two linear heads that tell harmful prompts from benign ones by the model's last states
    gate_weight: Annotated[float, POSITIVE] = 0.2
    # of it the head on the understanding; the rest is the head on all up to the understanding's end
    gate_share: Annotated[float, SHARE] = 0.5


def safekey_conflicts(training: Any, synthesis: Any) -> Iterator[str]:
    """What of the sections `training` and `synthesis` does not go with the objective."""
    marked = [n for n, source in enumerate(synthesis.prompts) if source.span_columns]
    if training.objective != "safekey":
        if training.safekey != SafeKeyConfig():
            yield (
                f"training.safekey: is read by training.objective safekey, not {training.objective}"
            )
        for n in marked:
            yield (
                f"synthesis.prompts[{n}].span_columns: is read by training.objective safekey, not "
                f"{training.objective}"
            )
        return
    if synthesis.method != "external":
        yield (
            f"training.objective: safekey needs responses whose spans are marked, and "
            f"synthesis.method is {synthesis.method}; expected external"
        )
    for n, source in enumerate(synthesis.prompts):
        if len(source.span_columns) not in (0, 2):
            yield (
                f"synthesis.prompts[{n}].span_columns: has {len(source.span_columns)} names; "
                "expected two, of the end of the understanding and the end of the key sentence"
            )
    if not marked:
        yield (
            "synthesis.prompts: no source has span_columns, which training.objective safekey needs"
        )
    if synthesis.harmful_reasoning != "keep":
        yield (
            "synthesis.harmful_reasoning: changes the rows whose spans training.objective safekey "
            "reads; set it to keep"
        )
    if training.think_newlines != "keep":
        yield (
            "training.think_newlines: moves the spans of training.objective safekey; set it to keep"
        )
