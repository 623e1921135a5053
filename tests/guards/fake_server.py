"""A small HTTP server that answers as it is told: for faults no real one shows at will."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

from tests.support import loopback_server


class Scripted:
    """What the server does, and what it was asked.

    `answer(body, number)` gives (status, headers, bytes), None to hang up, or the pieces of a reply
    as they go over the wire; `requests` keeps the bodies that came in.
    """

    def __init__(self, answer):
        self.answer, self.requests, self.lock = answer, [], threading.Lock()

    def take(self, body):
        with self.lock:
            self.requests.append(body)
            return len(self.requests)


def reply(text, status=200, headers=None):
    """A completion with this text; the chat form and the other at once."""
    choice = {"text": text, "message": {"role": "assistant", "content": text}}
    return status, headers or {}, json.dumps({"choices": [choice]}).encode()


@contextmanager
def serving(answer):
    """Yields (address, the `Scripted`)."""
    script = Scripted(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            result = script.answer(body, script.take(body))
            if result is None:
                self.close_connection = True
                return
            if not isinstance(result, tuple):
                self.close_connection = True
                with suppress(OSError):  # whoever asked may have gone by now
                    for piece in result:
                        self.wfile.write(piece)
                return
            status, headers, content = result
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with loopback_server(Handler) as url:
        yield f"{url}/v1", script


def slowly(seconds, text="safe"):
    """An answer that comes late."""

    def answer(body, number):
        time.sleep(seconds)
        return reply(text)

    return answer
