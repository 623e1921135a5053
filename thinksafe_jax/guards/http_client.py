"""JSON over HTTP to a server that may be slow, busy, broken or gone."""

import http.client
import io
import json
import logging
import math
import os
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from thinksafe_jax.errors import ConfigError, EnvironmentFault, RetryLater, first_line, quoted
from thinksafe_jax.json_files import load_unique

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds
# an answer has some sixty tokens, with twenty alternatives each
_MOST_BYTES, _MOST_ERROR_BYTES = 2**22, 2**14
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
# no connection, time-out, cut off; no HTTP, or less of it than announced; no JSON; too deep for it
_BROKEN = (OSError, http.client.HTTPException, ValueError, RecursionError)
_log = logging.getLogger(__name__)


class Refused(Exception):
    """The server understood and will not answer this request, however often it is sent."""


class Server:
    """One OpenAI-compatible server; safe to use from several threads.

    Args:
        url: base address, as http://localhost:8000/v1.
        timeout: seconds for one request, from its connection to the last byte of the reply.
        retries: how often a request is sent again after a time-out, a lost connection or a busy
            answer; waits double from half a second, or last as long as the server says.

    Raises:
        ConfigError: `url` is no such address, or holds a secret.
    """

    def __init__(self, url: str, *, timeout: float, retries: int):
        _check_url(url)
        self.url, self._timeout, self._retries = url.rstrip("/"), timeout, retries
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(_HTTPHandler, _HTTPSHandler, _NoRedirects)

    def stop(self) -> None:
        """Ends the waiting between tries: nobody wants the answers any more."""
        self._stopped.set()

    def restart(self) -> None:
        """Takes `stop` back."""
        self._stopped.clear()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The reply to a request as JSON; text that is no JSON counts as a broken answer.

        Raises:
            Refused: 4xx other than busy or forbidden.
            EnvironmentFault: 401, 403, 404.
            RetryLater: busy, broken or unreachable at every try.
        """
        wait, reason = _FIRST_WAIT, ""
        for attempt in range(self._retries + 1):
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                reason, after = self._explained(error)
            except _BROKEN as error:
                reason, after = _shown(first_line(error)), None
            if attempt < self._retries:
                pause = min(_LONGEST_WAIT, after if after is not None else wait)
                _log.warning("guard server %s: %s; again in %.1f s", self.url, reason, pause)
                # a little apart, or all requests that failed together would come together again
                if self._stopped.wait(pause * random.uniform(0.8, 1.2)):
                    break
                wait *= 2
        raise RetryLater(
            f"guard server {self.url}: no answer after {self._retries + 1} tries ({reason}); what "
            "was judged is kept, run the same command again when the server is back"
        )

    def _once(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **_key()},
        )
        with self._opener.open(request, timeout=self._timeout) as reply:
            content = reply.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"an answer of more than {_MOST_BYTES:,} bytes")
        return load_unique(_without_key(content.decode("utf-8")), nan=True)

    def _explained(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
        """(reason, Retry-After) of an answer worth another try; raises for all others."""
        with error:
            try:
                text = _shown(error.read(_MOST_ERROR_BYTES).decode("utf-8", "replace"))
            except (OSError, http.client.HTTPException):  # the code alone says what to do
                text = ""
        text = text or _shown(str(error.reason))
        if error.code in (401, 403, 404):
            raise EnvironmentFault(
                f"guard server {self.url}: HTTP {error.code} ({text}); check "
                "guard.url and guard.served_name, and that the server lets this machine in"
            ) from None
        if error.code not in _BUSY:
            raise Refused(f"HTTP {error.code}: {text}") from None
        after = error.headers.get("Retry-After", "")
        return f"HTTP {error.code}", float(after) if after.isdecimal() else None


class _UntilDeadline(io.RawIOBase):
    """What a socket receives until a moment; its own time-out is that of each read alone."""

    def __init__(self, sock: socket.socket, deadline: float):
        self._sock, self._deadline = sock, deadline
        self._file = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> io.BufferedReader:
        """How http.client asks a socket for its bytes."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(remaining)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _WithDeadline(urllib.request.AbstractHTTPHandler):
    """Makes connections whose time-out covers the whole request, however its bytes trickle in."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **settings: Any) -> Any:
        deadline = time.monotonic() + (req.timeout or 0.0)

        def reply(sock: Any, **how: Any) -> http.client.HTTPResponse:
            bounded: Any = _UntilDeadline(sock, deadline)
            return http.client.HTTPResponse(bounded, **how)

        def connection(host: str, **rest: Any) -> Any:
            made = http_class(host, **rest)
            made.response_class = reply
            return made

        return super().do_open(connection, req, **settings)


class _HTTPHandler(_WithDeadline, urllib.request.HTTPHandler):
    pass


class _HTTPSHandler(_WithDeadline, urllib.request.HTTPSHandler):
    pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would turn a question into a GET and take the key along."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _check_url(url: str) -> None:
    host = re.split(r"[/?#]", url.partition("//")[2] or url)[0]
    if "@" in host or "?" in url:
        raise ConfigError(
            "guard.url: holds a user name, password or query, which logs, verdicts and the model "
            "card would show; leave it out and put the server's key in the variable GUARD_API_KEY"
        )
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without an address in them, a port that is no number
        good = False
    if not good or not url.isascii() or re.search(r"\s|#", url):
        raise ConfigError(f"guard.url: is {quoted(url, 200)}; expected http://host:port/v1")


def _key() -> dict[str, str]:
    """The bearer token in GUARD_API_KEY, which no file or log line ever holds."""
    key = os.environ.get("GUARD_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):  # http.client would show it in its error
        raise ConfigError("GUARD_API_KEY holds characters that no header may; set it again")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _without_key(text: str) -> str:
    """A server's words with the key cut out, which some servers send back."""
    key = os.environ.get("GUARD_API_KEY", "").strip()
    return text.replace(key, "[key]") if key else text


def _shown(text: str) -> str:
    """The first line of a server's words, for messages and logs. The key goes before the cut."""
    return _without_key(text).strip().partition("\n")[0][:200]


@dataclass(frozen=True)
class Step:
    """One token of an answer, and the likeliest tokens in its place with their probabilities."""

    token: str
    likely: tuple[tuple[str, float], ...]


def read_reply(reply: Any) -> tuple[str, list[Step]]:
    """(text, its steps) of a chat completion or a completion.

    Text that is none is "". Steps are left out, all of them, where one is malformed: what a step
    says is worth nothing when the one before it may be missing.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        return "", []
    if not isinstance(text, str):
        return "", []
    try:
        return text, _steps(choice["logprobs"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return text, []


def step_at(steps: Sequence[Step], text: str, place: int) -> Step | None:
    """The step that wrote the character at `place`; None where steps and text do not agree.

    White space is not compared: servers strip it off the text, and decode it away from tokens that
    are decoded alone. What follows the text, as an end-of-sequence token, does no harm.
    """
    if not _dense("".join(step.token for step in steps)).startswith(_dense(text)):
        return None
    before, written = len(_dense(text[:place])), 0
    for step in steps:
        written += len(_dense(step.token))
        if written > before:
            return step
    return None


def _steps(logprobs: Any) -> list[Step]:
    """Steps from either form of log-probabilities; raises for anything else."""
    if "content" in logprobs:  # of a chat completion
        listed = [
            (step["token"], [(top["token"], top["logprob"]) for top in step["top_logprobs"]])
            for step in logprobs["content"]
        ]
    else:
        pairs = zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
        listed = [(token, list(likely.items())) for token, likely in pairs]
    return [
        Step(_string(token), tuple((_string(top), _probability(value)) for top, value in likely))
        for token, likely in listed
    ]


def _string(token: Any) -> str:
    if not isinstance(token, str):
        raise TypeError(f"a token is {quoted(token)}")
    return token


def _probability(logprob: Any) -> float:
    # a little above zero is rounding, and what is no number is not below it
    if isinstance(logprob, bool) or not (math.isfinite(logprob) and logprob <= 1e-3):
        raise ValueError(f"a log-probability is {quoted(logprob)}")
    return math.exp(min(0.0, logprob))


def _dense(text: str) -> str:
    return "".join(text.split())
