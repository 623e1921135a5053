"""A guard that somebody already serves: any OpenAI-compatible endpoint (vLLM, SGLang, TGI).

    chat          the server renders its own template around prompt and response
    completions   the rendered text, one string
    tokens        the rendered prompt as token ids, exactly those of the native guard (vLLM, SGLang)

A server that is sent text tokenises control tokens that the text spells; they are broken with a
zero-width space first, and the verdict is `marked`. What the server writes is read strictly: an
answer that is not the guard's whole form is `unparsed`, and so is one that its own probabilities,
where the server gives them, do not bear out.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from thinksafe_jax.config import GuardModel
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.guards.answer_form import AnswerForm, read_slot, template_hash
from thinksafe_jax.guards.control_tokens import COMMON
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.guards.guard_format import Reading, Slot, verdict_of
from thinksafe_jax.guards.protocol import Exchange, Verdict
from thinksafe_jax.guards.server_reply import Step, read_reply, step_at
from thinksafe_jax.guards.template import GuardTemplate
from thinksafe_jax.http_client import Refused, Server, ServerRole
from thinksafe_jax.tokenizer import ChatTokenizer

_READY = Exchange("ready?", "How do I boil an egg?", "Seven minutes in boiling water.")
# an answer has some sixty tokens, with twenty alternatives each
_ROLE = ServerRole("guard server", "guard", "GUARD_API_KEY", "what was judged", 2**22)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Question:
    """One request: its path and body, and what happened to the text on the way."""

    path: str
    body: dict[str, Any]
    truncated: bool = False
    marked: bool = False


@dataclass(frozen=True)
class _Answer:
    """What the guard said, None where that cannot be read; the probabilities as in `Verdict`."""

    reading: Reading | None = None
    p_unsafe: float | None = None
    other_mass: float | None = None


class HttpGuard:
    """A served guard.

    Args:
        cfg: with `url`, and `kind` for the form of the answers.
        tokenizer: the guard's, for the apis completions and tokens; chat needs none.

    Raises:
        EnvironmentFault: nobody answers at the address, or it refuses this client.
        RetryLater: the server is there but does not answer, however often it is asked.
    """

    weak = False

    def __init__(self, cfg: GuardModel, tokenizer: ChatTokenizer | None = None):
        self._cfg, self._format = cfg, FORMATS[cfg.kind]
        self._served = cfg.served_name or cfg.model
        self.name = f"{self._served} at {cfg.url}"
        self._prompt: GuardTemplate | None = None
        self._adds_bos = False
        if tokenizer is not None:
            self._prompt = self._format.template(tokenizer, False)
            bos = tokenizer.encode_template(tokenizer.names.get("bos_token", ""))
            ids = tokenizer.encode_template("", complete=True)
            self._adds_bos = bool(bos) and ids[:1] == bos
        self._marks = self._prompt.marks if self._prompt else COMMON
        # a server's own template cannot be seen from here
        self.template = ""
        if self._prompt is not None and cfg.api != "chat":
            slots = self._format.slots(self._prompt)
            self.template = template_hash(self._prompt, AnswerForm(self._prompt, slots))
        self._server = Server(cfg.url, _ROLE, timeout=cfg.timeout_seconds, retries=cfg.retries)
        self._logprobs = self._supports_logprobs()

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """Verdicts in the order of the exchanges; `concurrency` requests are in flight.

        Raises:
            EnvironmentFault, RetryLater: the server died; what was judged before has been yielded.
        """
        self._server.restart()
        rest, size = iter(exchanges), self._cfg.concurrency
        with ThreadPoolExecutor(size) as pool:
            waiting = [pool.submit(self._ask, e) for e in islice(rest, 2 * size)]
            try:
                while waiting:
                    yield waiting.pop(0).result()
                    waiting += [pool.submit(self._ask, e) for e in islice(rest, 1)]
            finally:
                self._server.stop()
                for future in waiting:
                    future.cancel()

    def _supports_logprobs(self) -> bool:
        """Asks one harmless question with log-probabilities, and without where that is refused."""
        for wanted in (True, False):
            question = self._question(_READY, logprobs=wanted)
            try:
                self._server.post(question.path, question.body)
                return wanted
            except Refused as refused:
                if not wanted:
                    raise EnvironmentFault(
                        f"guard server {self._cfg.url}: refuses a plain question "
                        f"({refused}); check guard.served_name, guard.api and the server's log"
                    ) from None
        return False

    def _ask(self, exchange: Exchange) -> Verdict:
        question = self._question(exchange, logprobs=self._logprobs)
        answer = _Answer()
        if question.path:
            try:
                reply = self._server.post(question.path, question.body)
                answer = self._answer(*read_reply(reply))
            except Refused as refused:  # of this text: too long, as a rule
                _log.warning("guard %s refuses %s (%s)", self.name, exchange.id, refused)
        verdict = verdict_of(self, exchange, answer.reading, answer.p_unsafe, answer.other_mass)
        return replace(verdict, truncated=question.truncated, marked=question.marked)

    def _answer(self, text: str, steps: Sequence[Step]) -> _Answer:
        """The whole text in the guard's form, borne out by the probabilities of its verdict."""
        match = self._format.pattern.fullmatch(text)
        if not match:
            return _Answer()
        reading = self._format.read(match.groupdict())
        step = step_at(steps, text, match.start("verdict"))
        if step is None or not step.likely:
            return _Answer(reading)
        slot = Slot("verdict", "", self._format.verdicts)
        word, p_unsafe, other = read_slot(slot, _of_words(slot, step), self._format.unsafe)
        if word is None or (word in self._format.unsafe) != (reading.verdict == "unsafe"):
            return _Answer(None, None, other)
        return _Answer(reading, p_unsafe, other)

    def _question(self, exchange: Exchange, *, logprobs: bool) -> _Question:
        body: dict[str, Any] = {
            "model": self._served,
            "temperature": 0.0,
            "max_tokens": self._cfg.answer_tokens,
        }
        turns = (exchange.prompt, exchange.response)
        marked = any(map(self._marks.occur_in, turns))
        if self._cfg.api == "chat":
            body["messages"] = [
                {"role": role, "content": self._marks.broken(turn)}
                for role, turn in zip(("user", "assistant"), turns, strict=True)
            ]
            body |= {"logprobs": True, "top_logprobs": 20} if logprobs else {}
            return _Question("chat/completions", body, marked=marked)
        assert self._prompt is not None
        body |= {"logprobs": 20} if logprobs else {}
        room = self._cfg.max_length - self._cfg.answer_tokens
        if self._cfg.api == "tokens":
            item = self._prompt.encode(turns, room)
            body["prompt"], truncated = item.ids, item.truncated
        else:
            body["prompt"], truncated = self._text(self._prompt, turns, room)
        path = "" if body["prompt"] is None else "completions"
        return _Question(path, body, truncated, marked)

    def _text(
        self, prompt: GuardTemplate, turns: tuple[str, str], room: int
    ) -> tuple[str | None, bool]:
        """(the rendered conversation, whether its response was cut), at most `room` tokens.

        The response's beginning is cut until the text, tokenised as the server will, fits; None
        where the prompt alone does not.
        """
        question, response = map(self._marks.broken, turns)
        kept, budget = response, len(prompt.tokenizer.encode_text(response))
        while True:
            text = prompt.render(question, kept)
            if self._adds_bos:
                text = text.removeprefix(prompt.tokenizer.names["bos_token"])
            excess = len(prompt.tokenizer.encode_template(text, complete=True)) - room
            if excess <= 0:
                return text, kept != response
            budget -= excess
            if budget < 1:
                return None, False
            kept = prompt.tokenizer.end_of(response, budget)


def _of_words(slot: Slot, step: Step) -> np.ndarray:
    """Probability of each word, from the tokens that begin it alone, and of all else: `[W + 1]`."""
    masses = dict.fromkeys(slot.words, 0.0)
    for token, probability in step.likely:
        start = token.strip()
        begun = [word for word in slot.words if start and word.strip().startswith(start)]
        if len(begun) == 1:
            masses[begun[0]] += probability
    return np.array([*masses.values(), max(0.0, 1.0 - sum(masses.values()))])
