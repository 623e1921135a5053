"""A dataset goes to the Hub and comes back as prompts, against a small Hub on localhost."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import pytest

from tests.support import loopback_server
from thinksafe_jax.config import Recipe, SynthesisConfig
from thinksafe_jax.guards import Verdict
from thinksafe_jax.report import card_of_dataset
from thinksafe_jax.runs import RowStore
from thinksafe_jax.synthesis import Ledger, dataset_facts, write_dataset

pytestmark = pytest.mark.hub

COMMIT = "c" * 40
WORKER = """
import sys
from pathlib import Path
from thinksafe_jax.config import PromptSource
from thinksafe_jax.data import load_prompts
from thinksafe_jax.synthesis import push
push(Path(sys.argv[1]), "me/rows", private=sys.argv[2] == "private")
source = PromptSource("hf:me/rows", prompt_column="instruction", label_column="prompt_label")
print(sorted((p.id, p.text, p.label) for p in load_prompts([source], require_label=True)))
"""


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed, and what visibility was asked for."""

    files: dict[str, bytes]
    private: list[bool]

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, raw.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/me/rows/commit/{COMMIT}"
            return self.send({"success": True, "commitOid": COMMIT, "commitUrl": url})
        body = json.loads(raw)
        if self.path == "/api/repos/create":
            self.private.append(
                "private" in (body.get("visibility"), body.get("private") and "private")
            )
            return self.send({"url": f"http://{self.headers['Host']}/datasets/me/rows"})
        if "/preupload/" in self.path:
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in body["files"]]  # fmt: skip
            return self.send({"files": modes})
        return self.send({"errors": [], "warnings": []})  # validate-yaml

    def do_GET(self):
        path = self.path.partition("?")[0]
        if "/resolve/" in path:
            data = self.files[path.partition(f"/resolve/{COMMIT}/")[2]]
            return self.send(data, {"ETag": f'"{len(data)}"', "X-Repo-Commit": COMMIT})
        if "/tree/" in path:
            return self.send([
                {"type": "file", "path": p, "size": len(b), "oid": f"{n:040x}"}
                for n, (p, b) in enumerate(self.files.items())
            ])  # fmt: skip
        return self.send(
            {"id": "me/rows", "sha": COMMIT, "private": self.private[-1], "siblings": []}
        )

    do_HEAD = do_GET

    def send(self, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    handler = type("Handler", (Hub,), {"files": {}, "private": []})
    with loopback_server(handler) as url:
        yield handler, url


def small_dataset(folder):
    samples, verdicts = (RowStore(folder / n, ("id", "attempt")) for n in ("samples", "verdicts"))
    for label in ("harmful", "benign"):
        samples.append([{
            "id": label, "prompt": f"a {label} one", "label": label, "attempt": 1, "tokens": 5,
            "response": "<think>a</think>b", "finish_reason": "stop",
        }])  # fmt: skip
        verdicts.append([Verdict(label, "safe", 0.1, "full", False, "g").row()])
    facts = dataset_facts(Recipe(name="x", synthesis=SynthesisConfig()))
    written = write_dataset(
        folder, samples, Ledger(facts.reasoning).read(samples, verdicts), facts, len
    )
    (folder / "dataset/README.md").write_text(card_of_dataset(facts, *written))


def test_pushed_privately_and_read_back_from_the_hub(hub, tmp_path):
    handler, url = hub
    small_dataset(tmp_path / "run")
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {
        **own, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "run"), "private"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert handler.private == [True]
    assert sorted(handler.files) == [
        "README.md", "counts.json", "data/train-00000-of-00001.parquet",
    ]  # fmt: skip
    assert not any(b"hf_secret" in data for data in handler.files.values())
    assert done.stdout.strip() == str(
        [("rows-1", "a benign one", "benign"), ("rows-2", "a harmful one", "harmful")]
    )
