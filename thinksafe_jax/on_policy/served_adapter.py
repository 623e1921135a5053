"""The adapter of a policy at a server: written as PEFT has it, loaded by name, unloaded, deleted.

    adapter ─► adapter_folder/thinksafe-<hash> ─► /v1/load_lora_adapter ─► a model of that name

The name is a hash of the run, of what the adapter is put on, and of its weights. So a name stands
for one policy, whoever loads it: of several processes the first is served, the others find it
there, and so does a start that goes on after a kill.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax

from thinksafe_jax.config import RolloutServerConfig
from thinksafe_jax.errors import EnvironmentFault, RetryLater
from thinksafe_jax.http_client import NotServed, Refused, Server
from thinksafe_jax.models import LoraConfig
from thinksafe_jax.on_policy.completion_reply import ServedModel
from thinksafe_jax.on_policy.policy import adapter_hash
from thinksafe_jax.storage import content_hash
from thinksafe_jax.weights import export_adapter

_log = logging.getLogger(__name__)
Tree = Any


class ServedAdapter:
    """What a server holds of this run: one adapter at a time, or none.

    Args:
        server: is told to load; unloading must not wait for long, so it has its own.
        config: names the folder, as this machine and the server see it.
        model: what the adapter is put on.
        lora: the adapter's shape.
        owner: names the run, so that two runs at one server do not unload each other's.
    """

    def __init__(
        self,
        server: Server,
        unloading: Server,
        config: RolloutServerConfig,
        model: ServedModel,
        lora: LoraConfig,
        owner: str,
    ):
        self._server, self._unloading, self._config = server, unloading, config
        self._model, self._lora, self._owner = model, lora, owner
        self._folder = Path(config.adapter_folder).resolve()
        self._seen = config.served_folder.rstrip("/") or str(self._folder)
        self._loaded = ""

    def load(self, adapter: Tree | None) -> str:
        """The server's name of the student with the adapter, loaded where it was not.

        All processes must call it: the first writes the folder.

        Args:
            adapter: numpy arrays, all of it; None is the student itself.

        Raises:
            EnvironmentFault: the server loads no adapters, or does not see the folder.
            RetryLater: it does not answer.
        """
        if adapter is None:
            return self._model.name
        facts = self._owner, self._model.name, self._lora, adapter_hash(adapter)
        name = f"thinksafe-{content_hash(facts)[:16]}"
        if name != self._loaded:
            self.unload()
            export_adapter(
                self._folder / name, adapter, self._lora, self._model.cfg, self._model.name
            )
            self._loaded = name
            self._ask_to_load(name)
        return name

    def unload(self) -> None:
        """Frees the server's place and the folder; a server that is gone is no reason to stop."""
        name, self._loaded = self._loaded, ""
        if not name:
            return
        try:
            self._unloading.command("unload_lora_adapter", {"lora_name": name})
        except NotServed:  # another process was first, or the server began anew
            pass
        except (Refused, RetryLater):
            _log.warning("the adapter %s may still be loaded at %s", name, self._config.url)
        if jax.process_index() == 0:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    @property
    def _needed(self) -> str:
        rank = f"--max-lora-rank {self._lora.r}"
        return f"vLLM needs --enable-lora, {rank} or more, and a folder that it sees"

    def _ask_to_load(self, name: str) -> None:
        path = f"{self._seen}/{name}"
        server = f"rollout server {self._server.url}"
        try:
            self._server.command("load_lora_adapter", {"lora_name": name, "lora_path": path})
        except NotServed as error:
            if error.code != 404:
                raise
            if name in error.said:
                raise EnvironmentFault(
                    f"{server}: does not see the adapter {path} ({error.said}); "
                    "on_policy.server.adapter_folder must be a folder of a disk that it reads, "
                    "served_folder the same folder as it sees it"
                ) from None
            raise EnvironmentFault(
                f"{server}: loads no adapters ({error.said}); start vLLM with --enable-lora, and "
                "with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            ) from None
        except Refused as refused:
            if "already" in str(refused):  # loaded: by another process, or before a kill
                return
            raise EnvironmentFault(
                f"{server}: does not load the adapter {path} ({refused}); {self._needed}"
            ) from None
        except RetryLater as error:  # vLLM answers 500 to an adapter that it has no room for
            raise RetryLater(f"{error}. It was asked to load {path}; {self._needed}") from None
