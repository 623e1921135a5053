"""JSON over HTTP to a server that may be slow, busy, broken or gone."""

import http.client
import io
import json
import logging
import os
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from thinksafe_jax.errors import ConfigError, EnvironmentFault, RetryLater, first_line, quoted
from thinksafe_jax.json_files import load_unique

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds
_MOST_ERROR_BYTES = 2**14
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
# no connection, time-out, cut off; no HTTP, or less of it than announced; no JSON; too deep for it
_BROKEN = (OSError, http.client.HTTPException, ValueError, RecursionError)
_log = logging.getLogger(__name__)


class Refused(Exception):
    """The server understood and will not answer this request, however often it is sent."""


class NotServed(EnvironmentFault):
    """401, 403 or 404: the server has not what was asked for, or not for this machine.

    Attributes:
        code: of HTTP.
        said: the first line of the server's words.
    """

    def __init__(self, message: str, code: int, said: str):
        super().__init__(message)
        self.code, self.said = code, said


@dataclass(frozen=True)
class ServerRole:
    """What a server is for, in the words of messages.

    Attributes:
        name: as "guard server".
        section: of the recipe, with the keys `url` and `served_name`.
        key_variable: the environment variable with its key; no file or log line ever holds it.
        kept: what is not lost when it is gone, as "what was judged".
        most_bytes: of an answer; a longer one is no answer.
    """

    name: str
    section: str
    key_variable: str
    kept: str
    most_bytes: int


class Server:
    """One OpenAI-compatible server; safe to use from several threads.

    Args:
        url: base address, as http://localhost:8000/v1.
        role: what it is for.
        timeout: seconds for one request, from its connection to the last byte of the reply.
        retries: how often a request is sent again after a time-out, a lost connection or a busy
            answer; waits double from half a second, or last as long as the server says.

    Raises:
        ConfigError: `url` is no such address, or holds a secret.
    """

    def __init__(self, url: str, role: ServerRole, *, timeout: float, retries: int):
        _check_url(url, role)
        self.url, self._role = url.rstrip("/"), role
        self._timeout, self._retries = timeout, retries
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
            NotServed: 401, 403, 404.
            RetryLater: busy, broken or unreachable at every try.
        """
        return self._tried(path, body, lambda text: load_unique(text, nan=True))

    def command(self, path: str, body: dict[str, Any]) -> str:
        """As `post`, for requests that are answered by a sentence."""
        return self._tried(path, body, str)

    def _tried(self, path: str, body: dict[str, Any], read: Callable[[str], Any]) -> Any:
        wait, reason, name = _FIRST_WAIT, "", self._role.name
        for attempt in range(self._retries + 1):
            try:
                return read(self._once(path, body))
            except urllib.error.HTTPError as error:
                reason, after = self._explained(error)
            except _BROKEN as error:
                reason, after = self._shown(first_line(error)), None
            if attempt < self._retries:
                pause = min(_LONGEST_WAIT, after if after is not None else wait)
                _log.warning("%s %s: %s; again in %.1f s", name, self.url, reason, pause)
                # a little apart, or all requests that failed together would come together again
                if self._stopped.wait(pause * random.uniform(0.8, 1.2)):
                    break
                wait *= 2
        raise RetryLater(
            f"{name} {self.url}: no answer after {self._retries + 1} tries ({reason}); "
            f"{self._role.kept} is kept, run the same command again when the server is back"
        )

    def _once(self, path: str, body: dict[str, Any]) -> str:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **_authorization(self._role)},
        )
        with self._opener.open(request, timeout=self._timeout) as reply:
            content = reply.read(self._role.most_bytes + 1)
        if len(content) > self._role.most_bytes:
            raise ValueError(f"an answer of more than {self._role.most_bytes:,} bytes")
        return _without_key(content.decode("utf-8"), self._role)

    def _explained(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
        """(reason, Retry-After) of an answer worth another try; raises for all others."""
        with error:
            try:
                text = self._shown(error.read(_MOST_ERROR_BYTES).decode("utf-8", "replace"))
            except (OSError, http.client.HTTPException):  # the code alone says what to do
                text = ""
        text = text or self._shown(str(error.reason))
        if error.code in (401, 403, 404):
            section = self._role.section
            raise NotServed(
                f"{self._role.name} {self.url}: HTTP {error.code} ({text}); check {section}.url "
                f"and {section}.served_name, and that the server lets this machine in",
                error.code,
                text,
            ) from None
        if error.code not in _BUSY:
            raise Refused(f"HTTP {error.code}: {text}") from None
        after = error.headers.get("Retry-After", "")
        reason = f"HTTP {error.code}: {text}" if text else f"HTTP {error.code}"
        return reason, float(after) if after.isdecimal() else None

    def _shown(self, text: str) -> str:
        """The first line of a server's words; the key goes before the cut."""
        return _without_key(text, self._role).strip().partition("\n")[0][:200]


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


def _check_url(url: str, role: ServerRole) -> None:
    host = re.split(r"[/?#]", url.partition("//")[2] or url)[0]
    if "@" in host or "?" in url:
        raise ConfigError(
            f"{role.section}.url: holds a user name, password or query, which logs, rows and the "
            "model card would show; leave it out and put the server's key in the variable "
            f"{role.key_variable}"
        )
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without an address in them, a port that is no number
        good = False
    if not good or not url.isascii() or re.search(r"\s|#", url):
        raise ConfigError(
            f"{role.section}.url: is {quoted(url, 200)}; expected http://host:port/v1"
        )


def _key(role: ServerRole) -> str:
    return os.environ.get(role.key_variable, "").strip()


def _authorization(role: ServerRole) -> dict[str, str]:
    """The bearer token in the role's variable, as a header."""
    key = _key(role)
    if not (key.isascii() and key.isprintable()):  # http.client would show it in its error
        raise ConfigError(f"{role.key_variable} holds characters that no header may; set it again")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _without_key(text: str, role: ServerRole) -> str:
    """A server's words with the key cut out, which some servers send back."""
    key = _key(role)
    return text.replace(key, "[key]") if key else text
