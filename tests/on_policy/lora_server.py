"""A small server that speaks as vLLM does: token ids in and out, LoRA adapters loaded by path."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tests.support import loopback_server
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import load_config
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import import_adapter, load_params, resolve_model

Answer = tuple[int, Any]  # status and content: a text, or what becomes JSON
NOT_FOUND: Answer = (404, {"detail": "Not Found"})


def choice(token_ids, logprobs, reason, likely=None) -> dict[str, Any]:
    """One choice, in the form of vLLM's /v1/completions."""
    tokens = [f"token_id:{token}" for token in token_ids]
    values = {"tokens": tokens, "token_logprobs": logprobs}
    if likely is not None:
        values["top_logprobs"] = [{f"token_id:{token}": value for token, value in likely.items()}]
    return {"index": 0, "text": "", "finish_reason": reason, "logprobs": values}


class LoraServer:
    """What the server holds, and what it was asked.

    Args:
        draw: (request, folder of its adapter or None) -> a choice.
        name: of the model without an adapter.
    """

    def __init__(self, draw: Callable[[dict, Path | None], dict], name: str = "student"):
        self.draw, self.name = draw, name
        self.adapters: dict[str, Path] = {}
        self.asked: list[tuple[str, dict]] = []
        self.instead: Callable[[str, dict], Answer | None] = lambda path, body: None
        self.lock = threading.Lock()

    def of(self, path: str) -> list[dict]:
        """The bodies that were sent to a path."""
        return [body for asked, body in self.asked if asked == path]

    def answer(self, path: str, body: dict) -> Answer:
        with self.lock:
            self.asked.append((path, body))
            answer = self.instead(path, body)
            if answer is None:
                answer = getattr(self, f"_{path}", lambda body: NOT_FOUND)(body)
            return answer

    def _load_lora_adapter(self, body: dict) -> Answer:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return 400, f"The lora adapter '{name}' has already been loaded."
        if not (path / "adapter_model.safetensors").exists():
            return 404, f"Loading lora {name} failed: No adapter found for {path}"
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload_lora_adapter(self, body: dict) -> Answer:
        if self.adapters.pop(body["lora_name"], None) is None:
            return 404, f"The lora adapter '{body['lora_name']}' cannot be found."
        return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def _completions(self, body: dict) -> Answer:
        name = body["model"]
        if name != self.name and name not in self.adapters:
            return 404, f"The model `{name}` does not exist."
        drawn = self.draw(body, self.adapters.get(name))
        usage = {"prompt_tokens": len(body["prompt"])}
        return 200, {"model": name, "choices": [drawn], "usage": usage}


@contextmanager
def serving(server: LoraServer):
    """Yields the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = server.answer(self.path.removeprefix("/v1/"), body)
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with loopback_server(Handler) as url:
        yield f"{url}/v1"


class MiniStudent:
    """Draws with this project's own sampler, from mini:student and the adapter of a folder."""

    def __init__(self, max_length: int):
        self._folder = resolve_model("mini:student")
        self._cfg, self._max_length = load_config(self._folder), max_length
        self._engine, self.folder = None, None
        self.takes_adapters = True  # False keeps the one that it has

    def draw(self, body: dict, folder: Path | None) -> dict:
        assert folder is not None, "a step asks for its adapter"
        if folder != self.folder and (self.takes_adapters or self.folder is None):
            adapter, lora = import_adapter(folder, self._cfg)
            self._engine = self._engine or self._built(lora)
            self._engine.update_adapter(adapter)
            self.folder = folder
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 1.0, -1)
        sampling = SamplingConfig(1.0, 1.0, 0, max_new_tokens=body["max_tokens"])
        assert self._engine is not None
        request = Request(str(body["seed"]), body["prompt"], sampling)
        [done] = self._engine.generate([request])
        return choice(done.drawn.token_ids, done.drawn.logprobs, done.finish_reason)

    def _built(self, lora) -> Engine:
        return Engine(
            self._cfg,
            load_params(self._folder, self._cfg, jnp.float32),
            EngineConfig(slots=1, window=8, page_size=16, max_length=self._max_length),
            eos_ids=ChatTokenizer(self._folder).eos_ids,
            lora=lora,
            sampling_logprobs=True,
        )
