"""The public sampler: a model, its shapes and its randomness; requests in, completions out."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

import jax
import jax.numpy as jnp

from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.config import EngineConfig, SamplingConfig, check_limits
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import (
    Adapter,
    AttentionRequest,
    LoraConfig,
    ModelConfig,
    Params,
    load_config,
)
from thinksafe_jax.models import unstack_layers as apart
from thinksafe_jax.sampling.adapter_place import AdapterPlace
from thinksafe_jax.sampling.attention import choose, table_pages
from thinksafe_jax.sampling.device import ModelDevice
from thinksafe_jax.sampling.drafting import Drafting, draft_shape
from thinksafe_jax.sampling.held_params import exchanged, held_params
from thinksafe_jax.sampling.kv_cache import KvCache, pool_pages, stored_dtype
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.programs import DecodeSpec
from thinksafe_jax.sampling.replica_queue import deal_to_replicas
from thinksafe_jax.sampling.requests import Completion, Request, refusal, refuse_repeated
from thinksafe_jax.sampling.running import prefill_lengths
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats
from thinksafe_jax.sampling.text_requests import (
    Message,
    Prompt,
    as_prompts,
    text_requests,
    with_texts,
)
from thinksafe_jax.sharding import ModelMesh, load_mesh
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import import_adapter, load_params, resolve_model


class Engine:
    """Samples completions of one model.

    Example:
        >>> from thinksafe_jax.config import SamplingConfig
        >>> engine = Engine.from_pretrained("mini:student", slots=8)
        >>> greedy = SamplingConfig(temperature=0, max_new_tokens=120)
        >>> [done] = engine.generate("What is 17 + 25?", greedy)
        >>> done.text.endswith("The answer is 42."), done.finish_reason
        (True, 'stop')
        >>> chat = [{"role": "user", "content": "What is 33 + 44?"}]
        >>> several = engine.generate([chat, "What is 15 + 51?"], greedy, samples=2)
        >>> [(done.id, done.sample, len(done.logprobs)) for done in several]
        [('0', 0, 55), ('0', 1, 55), ('1', 0, 55), ('1', 1, 55)]

    Args:
        cfg: the model's facts.
        params: its parameters; with layers apart (`unstack_layers`) they are shared where they lie
            as the mesh has them, stacked ones are copied.
        config: slots, window, page size, pool, context; how replicas run.
        mesh: devices of this process, and where arrays lie on them; one device by default. The
            mesh axes of its batch are replicas.
        eos_ids: every id that ends a completion.
        seed: seed of the run; see `Request.random_words` for what else keys a row.
        tokenizer: turns texts into requests; without one `generate` takes requests only.
        lora: keeps an adapter of this shape apart from the parameters, which may then be a
            trainer's; B = 0 until `update_adapter`.
        sampling_logprobs: completions carry `Drawn`: what a trainer on these texts needs.

    Attributes:
        stats: what the last `generate` counted.

    Raises:
        ConfigError: the rules do not fit the model, `config.attention` cannot run here, or a value
            of `config` is out of its range.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        config: EngineConfig,
        *,
        mesh: ModelMesh | None = None,
        eos_ids: Sequence[int],
        seed: int = 0,
        tokenizer: ChatTokenizer | None = None,
        lora: LoraConfig | None = None,
        sampling_logprobs: bool = False,
    ):
        """Many parameters: what a sampler is made of is told here and nowhere else."""
        check_limits(config, "engine")
        self.cfg, self.config, self.eos_ids = cfg, config, tuple(eos_ids)
        self.tokenizer = tokenizer
        longest = cfg.max_position_embeddings
        self.max_length = min(config.max_length or longest, longest)
        platform, page, dtype = jax.default_backend(), config.page_size, params["embed"].dtype
        kv_dtype = stored_dtype(config, dtype)
        request = AttentionRequest(platform, cfg.head_dim, page_size=page, kv_dtype=kv_dtype.name)
        self.attention = choose(request, config.attention)
        # one device program over all replicas, or one for each
        meshes = [mesh] if mesh is None or config.replicas == "together" else mesh.replicas()
        layouts = [Layout.of(mesh) for mesh in meshes]
        held = [held_params(params, mesh) for mesh in meshes]
        self._pages = pool_pages(cfg, config, self.max_length, kv_dtype, layouts)
        self._pool_tokens = (self._pages - 1) * config.page_size  # of one pool; page 0 is nobody's
        sizes = cfg, config.window, self.eos_ids
        drafting = config.draft != "off"
        drafts = draft_shape(config.draft_tokens, self.max_length) if drafting else None
        self._devices = [
            ModelDevice(
                params,
                partial(KvCache.new, cfg, self._pages, config.page_size, kv_dtype, layout),
                DecodeSpec(*sizes, layout, self.attention, sampling_logprobs),
                slots=config.slots * layout.shards,
                seed=seed,
                drafts=drafts,
            )
            for params, layout in zip(held, layouts, strict=True)
        ]
        self._adapters = [AdapterPlace(cfg, lora, dtype, mesh) for mesh in meshes if lora]
        self.stats = EngineStats()
        self._calls = 0  # of `generate` and `update`: the last one has the devices
        if lora:
            self.update_adapter(None)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        mesh: str | ModelMesh | None = None,
        dtype: Any = jnp.bfloat16,
        revision: str | None = None,
        adapter: str | Path | None = None,
        seed: int = 0,
        **shape: Any,
    ) -> Self:
        """A sampler of a checkpoint, with its tokenizer.

        Args:
            name: a directory, a Hub id, a bucket path or `mini:student`, see `resolve_model`.
            mesh: a mesh file or the name of one, as `v5e-8`; one device by default.
            dtype: of the parameters; None keeps what is stored.
            revision: branch, tag or commit on the Hub.
            adapter: folder of a PEFT adapter, applied beside the weights; `update_adapter(None)`
                switches it off.
            shape: fields of `EngineConfig`: slots, window, page_size, pool_tokens, max_length ...

        Raises:
            InputError: no such model or adapter, or a damaged one.
            ConfigError: the mesh does not fit the model, or a field of `shape` is out of its range.
            EnvironmentFault: it cannot be fetched.
        """
        config = EngineConfig(**shape)
        check_limits(config, "engine")  # before gigabytes are loaded
        folder = resolve_model(name, revision)
        cfg, tokenizer = load_config(folder), ChatTokenizer(folder)
        if isinstance(mesh, str):
            mesh = ModelMesh.for_generation(load_mesh(mesh), cfg)
        tuned, lora = (None, None) if adapter is None else import_adapter(adapter, cfg, name)
        params = apart(load_params(folder, cfg, dtype, mesh and mesh.param_shardings()))
        ends = tokenizer.eos_ids
        engine = cls(
            cfg, params, config, mesh=mesh, eos_ids=ends, seed=seed, tokenizer=tokenizer, lora=lora
        )
        if lora:
            engine.update_adapter(tuned)
        return engine

    def update(self, params: Params) -> None:
        """Takes new weights, as after a training step. Nothing is compiled anew.

        A `generate` call that has not ended is over: its rows would mix two models.

        Args:
            params: the whole tree or a part of it, as the kernels that an adapter changes; layers
                stacked or apart. Each array has the shape and dtype of the one that it replaces.

        Raises:
            InputError: a parameter that the model does not have, or another shape or dtype.
        """
        new = [exchanged(device.params, params) for device in self._devices]
        self._calls += 1
        for device, held in zip(self._devices, new, strict=True):
            device.params = held

    def update_adapter(self, adapter: Adapter | None) -> None:
        """Takes a new adapter, as after a training step; the weights stay. Nothing is compiled.

        A `generate` call that has not ended is over: its rows would mix two models.

        Args:
            adapter: arrays `[L, ...]` as training has them, on any devices, of the engine's `lora`,
                whose scale it is given; None is the model without one. Of arrays that span
                processes, all must call this.

        Raises:
            InputError: the engine keeps no adapter apart, or one of another shape.
        """
        if not self._adapters:
            raise InputError(
                "update_adapter: no adapter is kept apart; build the engine with lora="
            )
        new = [place.put(adapter) for place in self._adapters]
        self._calls += 1
        for device, held in zip(self._devices, new, strict=True):
            device.adapter = held

    def release_pool(self) -> None:
        """Lets go of the KV pool until it is needed again, to make room for another model.

        A `generate` call that has not ended is over.
        """
        self._calls += 1
        for device in self._devices:
            device.release_cache()

    @property
    def slots(self) -> int:
        """Requests that it works on at a time, over all replicas."""
        return self.config.slots * sum(device.layout.shards for device in self._devices)

    def refuses(self, request: Request) -> str | None:
        """Why a request can never run here, or None.

        The reason names the numbers: no prompt, a token beyond the vocabulary, prompt plus maximum
        over the context or the pool.
        """
        room = {"context": self.max_length, "KV pool": self._pool_tokens}
        return refusal(request, room, self.cfg.vocab_size)

    def warm_up(self, longest: int | None = None) -> None:
        """Compiles every program, by running each once with nothing in it.

        Without it each is compiled when it is first needed. A `generate` call that has not ended is
        over.

        Args:
            longest: tokens of the longest prompt, or of what is recomputed after a preemption;
                default the whole context.
        """
        self._calls += 1
        lengths = prefill_lengths(self.config.page_size, longest or self.max_length)
        for device in self._devices:
            device.warm_up(lengths, self._allocator(device).table)

    @overload
    def generate(self, prompts: Iterable[Request | None]) -> Iterator[Completion]: ...

    @overload
    def generate(
        self,
        prompts: str | Sequence[Message] | Sequence[Prompt],
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        *,
        samples: int = 1,
        stop: str | Sequence[str] | None = (),
    ) -> list[Completion]: ...

    def generate(
        self, prompts: Any, sampling: Any = None, *, samples: int = 1, stop: Any = ()
    ) -> Iterator[Completion] | list[Completion]:
        """Samples completions of requests, or of texts.

        Requests are taken from the iterable as slots become free, so a long queue costs no
        memory; their completions come in the order in which they finish. A sequence is checked as
        a whole before anything runs. An iterator may give None while its next request depends on a
        completion that is still to come; it is asked again after the next window.

        Texts are what a user says, or conversations: lists of messages {"role": ..., "content":
        ...}. The chat template is put around them; text never becomes control tokens. Their
        completions come as a list, in order, and carry their own text.

        Args:
            prompts: requests, or a text, a conversation, or a list of these.
            sampling: of texts: options of every one, or one for each; default the paper's.
                max_new_tokens is cut to what the context leaves.
            samples: completions of each text.
            stop: strings that end a completion of a text; its text goes up to the first of them.

        Raises:
            InputError: a request cannot fit (see `refuses`), is none, or repeats id and sample.
        """
        with_options = sampling is not None or samples != 1 or bool(stop)
        if (texts := as_prompts(prompts, with_options)) is None:
            return self._generate(prompts)
        if (tokenizer := self.tokenizer) is None:
            raise InputError(
                "this engine has no tokenizer: make it by Engine.from_pretrained, or give it "
                "requests, which hold token ids"
            )
        longest = min(self.max_length, self._pool_tokens)
        requests = text_requests(texts, sampling, samples, tokenizer, longest, stop)
        return with_texts(requests, self._generate(requests), tokenizer)

    def _generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        if isinstance(requests, Sequence):
            refuse_repeated([self._check(request) for request in requests])
        self.stats = EngineStats()
        self._calls += 1
        queue = (None if request is None else self._check(request) for request in requests)
        shape = self._devices[0].drafts
        drafting = None if shape is None else Drafting(self.config.draft, shape)
        replicas: list[Scheduler] = []
        queues = deal_to_replicas(queue, replicas, len(self._devices))
        for device, mine in zip(self._devices, queues, strict=True):
            pages, shards = self._allocator(device), device.layout.shards
            shared = self.eos_ids, mine, self.stats, drafting
            replicas.append(Scheduler(device, self.config, pages, shards, *shared))
        return self._drive(list(replicas), self._calls)

    def _drive(self, running: list[Scheduler], call: int) -> Iterator[Completion]:
        """Steps the replicas by turns: while the host waits for one, the others work."""
        began, compiled, stats = time.perf_counter(), compilations_so_far(), self.stats
        while running:
            for scheduler in list(running):
                if call != self._calls:
                    raise InputError(
                        "a later generate or update has taken the engine over; take all "
                        "completions of one call before the next"
                    )
                finished = scheduler.step()
                stats.count_time(began, compiled)
                stats.active = sum(scheduler.active for scheduler in running)
                yield from finished
                if scheduler.idle:
                    running.remove(scheduler)

    def _allocator(self, device: ModelDevice) -> PageAllocator:
        size, shards = self.config.page_size, device.layout.shards
        block = table_pages(size)
        per_slot = -(-self.max_length // (size * block)) * block
        return PageAllocator(self._pages, self.config.slots * shards, per_slot, size, shards)

    def _check(self, request: Request | None) -> Request:
        if not isinstance(request, Request):
            raise InputError(f"{type(request).__name__} is no Request; give texts as a list")
        if reason := self.refuses(request):
            raise InputError(reason)
        return request
