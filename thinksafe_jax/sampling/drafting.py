"""Drafting as the host sees it: which texts drafts are found in, and when drafts are worth it."""

from collections import deque
from collections.abc import Sequence

import jax
import numpy as np

from thinksafe_jax.sampling.drafts import NOTHING, DraftShape
from thinksafe_jax.sampling.requests import Request

REFERENCE_TOKENS = 2048  # of other texts that a request takes along
LATEST_PROMPTS = 1024  # whose texts are kept: a queue may be longer than memory
# Rows whose arithmetic takes as long as reading the weights, once for all of them. Accelerators:
# FLOP/s over bytes/s in bfloat16 (TPU v5e 240, H100 295); a CPU as scripts/bench/drafting.py found.
_ROWS_PER_READ = {"tpu": 240, "gpu": 256, "cpu": 2}
_MARGIN = 1.05  # what drafts must save at least, over what they cost
_ENOUGH_PASSES = 64  # measured, before anything is believed
_LATEST_PASSES = 512  # that are believed; what lies further back is forgotten by and by


def draft_shape(count: int, longest: int) -> DraftShape:
    """Static sizes of drafting.

    Args:
        count: tokens of a draft.
        longest: tokens of a prompt and its completion.
    """
    return DraftShape(count, min(REFERENCE_TOKENS, longest), longest)


class Drafting:
    """What one `generate` call knows for its drafts; all its replicas share it.

    Its decisions look at no clock: tokens a pass are counted, what a pass costs is known from the
    number of rows. Without drafts, what they had saved is counted all the same, from the text.

    Args:
        mode: `EngineConfig.draft`, auto or always.
    """

    def __init__(self, mode: str, shape: DraftShape, platform: str | None = None):
        self.shape, self._always = shape, mode == "always"
        self._rows_per_read = _ROWS_PER_READ.get(platform or jax.default_backend(), 256)
        self._tokens = self._passes = 0.0
        self._of_prompt: dict[str, deque[np.ndarray]] = {}
        self._of_kind: dict[str, deque[np.ndarray]] = {}

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a pass of one slot makes with drafts, lately; 1 as long as nothing is known.

        At least 1, at most K + 1.
        """
        return self._tokens / self._passes if self._passes >= _ENOUGH_PASSES else 1.0

    def cost(self, active: int) -> float:
        """Time of a pass with drafts over one without, with so many slots at work.

        A pass takes as long as reading the weights and computing its rows.
        """
        rows, read = max(1, active), self._rows_per_read
        return (read + rows * self.shape.positions) / (read + rows)

    def wanted(self, active: int) -> bool:
        """Whether the next window of a program with so many slots at work takes drafts."""
        return self._always or self.tokens_per_pass > _MARGIN * self.cost(active)

    def measure(self, tokens: int, passes: int) -> None:
        """Takes note of a window: what it made, in how many passes with drafts."""
        self._tokens, self._passes = self._tokens + tokens, self._passes + passes
        kept = min(1.0, _LATEST_PASSES / max(1.0, self._passes))
        self._tokens, self._passes = kept * self._tokens, kept * self._passes

    def finished(self, request: Request, tokens: Sequence[int]) -> None:
        """Takes note of a text in which later ones may find their drafts."""
        text = np.asarray(tokens, np.int32)
        for texts, key in ((self._of_prompt, request.id), (self._of_kind, request.kind)):
            texts.setdefault(key, deque(maxlen=8)).append(text)
        if len(self._of_prompt) > LATEST_PROMPTS:
            del self._of_prompt[next(iter(self._of_prompt))]

    def histories(self, requests: Sequence[tuple[Request, Sequence[int]]], rows: int) -> np.ndarray:
        """Histories of requests with their tokens so far, i32 `[rows, columns]`; see `drafts`."""
        shape = self.shape
        out = np.full((rows, shape.columns), NOTHING, np.int32)
        for row, (request, ids) in enumerate(requests):
            references = self._references(request)
            out[row, shape.references - len(references) : shape.references] = references
            out[row, shape.references : shape.references + len(ids)] = ids
        return out

    def _references(self, request: Request) -> np.ndarray:
        """Finished texts, NOTHING behind each: of the prompt last, as the nearest to its own."""
        texts = [*self._of_prompt.get(request.id, ())][::-1]
        seen = {id(text) for text in texts}
        texts += [t for t in reversed(self._of_kind.get(request.kind, ())) if id(t) not in seen]
        between = np.full(1, NOTHING, np.int32)
        parts = [part for text in reversed(texts) for part in (text, between)]
        return np.concatenate(parts)[-self.shape.references :] if parts else between[:0]
