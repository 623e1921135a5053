"""A small Hugging Face Hub on localhost, and a process that resolves models against it."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_WORKER = """
import json, sys
from pathlib import Path
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.weights import local_folder, model_headers, model_revision, resolve_model
for line in sys.stdin:
    name, revision, revisions, headers = json.loads(line)
    try:
        if headers:
            seen = model_headers(name, revision, revisions and Path(revisions))
            answer = {"folder": str(seen.folder), "to_fetch": seen.to_fetch}
            here = revisions and local_folder(name, Path(revisions))
            answer["here"] = here and str(here)
        else:
            folder = resolve_model(name, revision, revisions and Path(revisions))
            answer = {"folder": str(folder), "commit": model_revision(folder)}
    except ThinkSafeError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer), flush=True)
"""


class FakeHub:
    """Repositories by name, as {"commit": sha, "files": {path: bytes}}, and how to refuse them."""

    def __init__(self):
        self.repositories: dict[str, dict] = {}
        self.refuse: dict[str, list[tuple[int, dict[str, str]]]] = {}  # answers, in order
        self.requests: Counter[str] = Counter()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub._answer(self, body=True)

            def do_HEAD(self):
                hub._answer(self, body=False)

            def log_message(self, *_):
                """Silence."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, request, body):
        path = request.path.partition("?")[0].strip("/")
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        self.requests[name] += 1
        if self.refuse.get(name):
            status, headers = self.refuse[name].pop(0)
            return self._send(request, status, b"{}", headers, body)
        repository = self.repositories.get(name)
        if repository is None:
            return self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        commit, files = repository["commit"], repository["files"]
        rest = path.removeprefix("api/models/").split("/")[2:]
        if path.startswith("api/models/") and "tree" in rest:
            content = [
                {"type": "file", "path": p, "size": len(b), "oid": f"{n:040x}"}
                for n, (p, b) in enumerate(files.items())
            ]
        elif path.startswith("api/models/"):
            if rest and rest[-1] not in ("main", commit):
                missing = {"X-Error-Code": "RevisionNotFound"}
                return self._send(request, 404, b"{}", missing, body)
            content = {"id": name, "modelId": name, "sha": commit, "siblings": []}
        else:
            data = files["/".join(rest[2:])]
            headers = {"ETag": f'"{hash(data) & 2**64 - 1:x}"', "X-Repo-Commit": commit}
            return self._send(request, 200, data, headers, body)
        return self._send(request, 200, json.dumps(content).encode(), {}, body)

    def _send(self, request, status, data, headers, body):
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)


class Resolver:
    """`resolve_model` in a process of its own, whose Hub is the given address."""

    def __init__(self, url: str, home: Path):
        own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            env={**own, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, name, revision=None, revisions=None, headers=False) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        question = [name, revision, revisions and str(revisions), headers]
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)
