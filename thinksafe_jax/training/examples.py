"""Dataset rows as token ids with a loss mask.

The prompt comes from the chat template, the raw response is appended to it; a response is never
rendered through a template, which strips or moves `<think>` (paper.md D16, D18, D24). The loss is
on the response only, end-of-turn id included (D25, D26).
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN, ChatTokenizer

_log = logging.getLogger(__name__)
_CLOSE_AND_ONE_NEWLINE = re.compile(re.escape(THINK_CLOSE) + r"\n(?!\n)")


@dataclass(frozen=True)
class KeySpans:
    """The marked parts of a response, as places in its row; both begin where the last one ends.

    Attributes:
        understanding_end: behind the last token that understands the prompt; the first is the
            response's own.
        sentence_end: behind the last token of the key sentence.
        harmful: whether the prompt is.
    """

    understanding_end: int
    sentence_end: int
    harmful: bool


@dataclass(frozen=True, eq=False)
class Example:
    """One training row.

    Attributes:
        id: the row's id, for logs.
        token_ids: i32 `[T]`, prompt then response.
        loss_mask: bool `[T]`; a token is a training target where True (the first never is: nothing
            predicts it).
        use_kl: whether the loss of the row is the divergence from the reference, instead of the
            cross-entropy of its tokens.
        facts: what is known of each token but the first, by name: `[T - 1, ...]`, all rows of a
            step alike. Rows of a dataset have none.
        spans: the parts of the response that objective safekey looks at, where they are marked.
    """

    id: str
    token_ids: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    use_kl: bool = False
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    spans: KeySpans | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", np.asarray(self.token_ids, np.int32))
        object.__setattr__(self, "loss_mask", np.asarray(self.loss_mask, bool))
        if self.token_ids.ndim != 1 or self.token_ids.shape != self.loss_mask.shape:
            raise InputError(
                f"row {quoted(self.id)}: token_ids {self.token_ids.shape} and loss_mask "
                f"{self.loss_mask.shape} must be two lists of one length"
            )

    def __len__(self) -> int:
        return len(self.token_ids)


Marks = tuple[int, int, bool]


class UntrainableRow(InputError):
    """One row that cannot be trained on; `cause` names the count that it goes to."""

    def __init__(self, id: str, cause: str, text: str):
        super().__init__(f"row {quoted(id)}: {text}")
        self.cause = cause


_COUNTS = ("kept", "too_long", "dangling_think", "no_response", "truncated", "tokens_cut")


def build_example(
    tokenizer: ChatTokenizer,
    instruction: str,
    response: str,
    id: str = "",
    ended: bool = True,
    *,
    use_kl: bool = False,
    think_newlines: str = "keep",
    marks: Marks | None = None,
) -> Example:
    """The example of one (instruction, response) pair.

    Args:
        ended: whether the response came to its end; one that was cut is not taught to end there.
        use_kl: see `Example`.
        think_newlines: "authors" turns the one newline after `</think>` into two, as their
            `custom_dataset.py` does; "keep" trains what was sampled.
        marks: characters of the response up to the end of the understanding and of the key
            sentence, and whether the prompt is harmful.

    Raises:
        UntrainableRow: the response is empty, or a `<think>` that the template or the response
            opens is left unclosed (or the reverse).
        InputError: the tokenizer has no ids for it, as for a token beyond the embedding.
    """
    if think_newlines == "authors":
        response = _CLOSE_AND_ONE_NEWLINE.sub(f"{THINK_CLOSE}\n\n", response)
    prompt = tokenizer.prompt_ids(instruction)
    token_ids = prompt + tokenizer.response_ids(response, ended)
    check_prefix(prompt, token_ids, id)
    if dangling := _dangling_think(tokenizer, token_ids, ended):
        raise UntrainableRow(id, "dangling_think", dangling)
    mask = np.arange(len(token_ids)) >= len(prompt)
    spans = None
    if marks is not None:
        *ends, harmful = marks
        first, end = (
            len(prompt) + len(tokenizer.response_ids(response[:end], ended=False)) for end in ends
        )
        if len(prompt) < first < end <= len(token_ids):
            spans = KeySpans(first, end, harmful)
    return Example(id, np.asarray(token_ids, np.int32), mask, use_kl, spans=spans)


def build_examples(
    tokenizer: ChatTokenizer, rows: Iterable[Mapping[str, Any]], config: TrainingConfig
) -> tuple[list[Example], dict[str, int]]:
    """Examples of the rows of `dataset/train.jsonl`, in their order.

    Rows with an unbalanced `<think>` and rows without a response are left out and counted apart. So
    are rows longer than `max_length` tokens; with `too_long: truncate` their end is cut instead,
    and each is named in the log with what it lost.

    Args:
        rows: mappings with `id`, `instruction`, `response`, `finish_reason` "length" where the
            response was cut, and `prompt_label` where the objective asks for it.
        config: `max_length` of both together, `too_long`, `objective`, `think_newlines`.

    Returns:
        The examples, and how many rows were `kept`, `too_long`, `dangling_think`, `no_response`
        and, among those kept, `truncated`, with the `tokens_cut` from them.

    Raises:
        InputError: the objective tells benign rows from harmful ones, and a row does not; or the
            tokenizer and the model do not belong together.
    """
    examples: list[Example] = []
    counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
    for row in rows:
        use_kl = config.objective == "ce+kl" and _label(row) == "benign"
        texts = (row["instruction"], row["response"], str(row["id"]))
        marks = _marks(row) if config.objective == "safekey" else None
        ended, newlines = row.get("finish_reason") != "length", config.think_newlines
        try:
            example = build_example(
                tokenizer, *texts, ended, use_kl=use_kl, think_newlines=newlines, marks=marks
            )
        except UntrainableRow as row_fault:
            _log.warning("not trained: %s", row_fault)
            counts[row_fault.cause] += 1
            continue
        if len(example) > config.max_length:
            shorter = _truncate(example, config.max_length)
            if config.too_long == "drop" or shorter is None:
                counts["too_long"] += 1
                continue
            counts["truncated"] += 1
            counts["tokens_cut"] += len(example) - len(shorter)
            example = shorter
        counts["kept"] += 1
        examples.append(example)
    if config.objective == "safekey":
        _require_spans(examples)
    return examples, counts


def _require_spans(examples: Sequence[Example]) -> None:
    if examples and not any(example.spans for example in examples):
        raise InputError(
            "training.objective safekey: no row has a marked understanding and key sentence; see "
            "span_columns of synthesis.prompts"
        )


def _marks(row: Mapping[str, Any]) -> Marks | None:
    """The ends of a row's marked parts, in characters, and whether its prompt is harmful."""
    spans = row.get("spans")
    if spans is None:
        return None
    if not (isinstance(spans, list) and [type(n) for n in spans] == [int, int]):
        raise InputError(
            f"row {quoted(row.get('id'))}: spans is {quoted(spans)}; expected two numbers of "
            "characters, up to the end of the understanding and of the key sentence"
        )
    return spans[0], spans[1], _label(row) == "harmful"


def _label(row: Mapping[str, Any]) -> str:
    """harmful or benign; nothing else passes, so that no KL is silently left out (paper.md D20)."""
    label = row.get("prompt_label")
    if label not in ("harmful", "benign"):
        raise InputError(
            f"row {quoted(row.get('id'))}: prompt_label is {quoted(label)}; this "
            "training.objective needs harmful or benign in every row"
        )
    return label


def _truncate(example: Example, length: int) -> Example | None:
    """The first `length` tokens; None where the prompt alone fills them."""
    mask = example.loss_mask[:length]
    if not mask.any():
        return None
    lost = len(example) - length
    _log.warning(
        "row %r: %d tokens; its last %d are cut, its answer's end and end-of-turn among them",
        example.id,
        len(example),
        lost,
    )
    spans = example.spans
    kept = spans if spans is not None and spans.sentence_end <= length else None
    return Example(example.id, example.token_ids[:length], mask, example.use_kl, spans=kept)


def check_prefix(prompt_ids: Sequence[int], token_ids: Sequence[int], id: str = "") -> None:
    """Checks token by token that `token_ids` begins with `prompt_ids` and goes on after it.

    Raises:
        InputError: naming the first position that differs. Masking by length alone would then put
            the loss on the wrong tokens (paper.md D23).
        UntrainableRow: nothing comes after it.
    """
    for position, (want, have) in enumerate(zip(prompt_ids, token_ids, strict=False)):
        if want != have:
            raise InputError(
                f"row {quoted(id)}: the prompt is no prefix of the example: token {position} is "
                f"{have}, the prompt has {want}"
            )
    if len(token_ids) <= len(prompt_ids):
        text = f"{len(token_ids)} tokens hold no response after a prompt of {len(prompt_ids)}"
        raise UntrainableRow(id, "no_response", text)


def _dangling_think(tokenizer: ChatTokenizer, token_ids: Sequence[int], ended: bool) -> str:
    """What is wrong with the reasoning tags among the control tokens, or nothing.

    Only a response that was cut may leave its reasoning open.
    """
    counts = []
    for tag in (THINK_OPEN, THINK_CLOSE):
        ids = tokenizer.encode_template(tag)
        single = len(ids) == 1 and ids[0] in tokenizer.control_ids
        counts.append(list(token_ids).count(ids[0]) if single else 0)
    opened, closed = counts
    if opened == closed <= 1 or (not ended and (opened, closed) == (1, 0)):
        return ""
    return f"{opened} {THINK_OPEN} and {closed} {THINK_CLOSE} control tokens; one pair is allowed"


def data_hash(examples: Sequence[Example]) -> str:
    """16 hex digits over all that training takes from the rows, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.id}\0{len(example)}\0".encode())
        digest.update(example.token_ids.tobytes())
        digest.update(example.loss_mask.tobytes())
        digest.update(bytes([example.use_kl]))
        if example.spans is not None:
            digest.update(repr(example.spans).encode())
    return digest.hexdigest()[:16]
