"""The public sampler: a model, its shapes and its randomness; requests in, completions out."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.models import ModelConfig, Params, unstack_layers
from thinksafe_jax.sampling.attention import Case, choose, refusals, table_pages
from thinksafe_jax.sampling.device import ModelDevice
from thinksafe_jax.sampling.kv_cache import default_pool_tokens
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.scheduler import Scheduler, prefill_lengths
from thinksafe_jax.sampling.stats import EngineStats, compiles_so_far
from thinksafe_jax.sharding import ModelMesh, on_devices

_log = logging.getLogger(__name__)


class Engine:
    """Samples completions of one model.

    Args:
        cfg: the model's facts.
        params: its parameters; with layers apart (`unstack_layers`) they are shared where they lie
            as the mesh has them, stacked ones are copied.
        config: slots, window, page size, pool, context; how replicas run.
        mesh: devices of this process, and where arrays lie on them; one device by default. The
            mesh axes of its batch are replicas.
        eos_ids: every id that ends a completion.
        seed: seed of the run; see `Request.random_words` for what else keys a row.

    Raises:
        ConfigError: the rules do not fit the model, `config.attention` cannot run here, or
            `config.replicas` is unknown.
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
    ):
        self.cfg, self.config, self.eos_ids = cfg, config, tuple(eos_ids)
        self.max_length = min(
            config.max_length or cfg.max_position_embeddings, cfg.max_position_embeddings
        )
        # XLA:CPU widens a whole bfloat16 pool to float32 and back for every write
        kv_dtype = params["embed"].dtype if jax.default_backend() != "cpu" else jnp.dtype("float32")
        self.attention = self._choose_attention()
        meshes = _program_meshes(mesh, config.replicas)
        layouts = [Layout.of(mesh) if mesh else ONE_DEVICE for mesh in meshes]
        placed = [_placed(params, mesh) for mesh in meshes]
        self._pages = self._pool_pages(kv_dtype, layouts)  # in what the weights leave free
        self._devices = [
            ModelDevice(
                cfg,
                own,
                slots=config.slots * layout.shards,
                pages=self._pages,
                page_size=config.page_size,
                steps=config.window,
                eos_ids=self.eos_ids,
                seed=seed,
                kv_dtype=kv_dtype,
                attention=self.attention,
                layout=layout,
            )
            for own, layout in zip(placed, layouts, strict=True)
        ]
        self.stats = EngineStats()

    def refuses(self, request: Request) -> str | None:
        """Why a request can never run here, or None.

        The reason names the numbers: no prompt, prompt plus maximum over the context or the pool.
        """
        need = len(request.prompt_ids) + request.sampling.max_new_tokens
        pool = (self._pages - 1) * self.config.page_size
        if not len(request.prompt_ids):
            return f"{request.id}: the prompt has no tokens"
        for what, most in (("context", self.max_length), ("KV pool", pool)):
            if need > most:
                return (
                    f"{request.id}: prompt of {len(request.prompt_ids)} + max_new_tokens "
                    f"{request.sampling.max_new_tokens} = {need} tokens, the {what} holds {most}"
                )
        return None

    def warm_up(self, longest: int | None = None) -> None:
        """Compiles every program, by running each once with nothing in it.

        Without it each is compiled when it is first needed.

        Args:
            longest: tokens of the longest prompt, or of what is recomputed after a preemption;
                default the whole context.
        """
        size = self.config.page_size
        for device in self._devices:
            shards = device.layout.shards
            for length in prefill_lengths(size, longest or self.max_length):
                tokens = np.zeros((shards, length), np.int32)
                pages = np.zeros((shards, length // size), np.int32)
                device.prefill(tokens, np.zeros(shards, np.int32), pages)
            device.warm_up_slots()
            table = self._allocator(device).table
            for width in device.widths:
                device.read(device.window(table, np.arange(width, dtype=np.int32)))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Samples every request; completions come in the order in which they finish.

        Requests are taken from the iterable as slots become free, so a long queue costs no
        memory. A sequence is checked as a whole before anything runs.

        Raises:
            InputError: a request cannot fit (`refuses` says why).
        """
        if isinstance(requests, Sequence):
            for request in requests:
                self._check(request)
        self.stats = EngineStats()
        queue = map(self._check, requests)
        return self._drive([self._scheduler(device, queue) for device in self._devices])

    def _drive(self, running: list[Scheduler]) -> Iterator[Completion]:
        """Steps the replicas by turns: while the host waits for one, the others work."""
        began, compiled, stats = time.perf_counter(), compiles_so_far(), self.stats
        while running:
            for scheduler in list(running):
                finished = scheduler.step()
                now = compiles_so_far()
                stats.seconds = time.perf_counter() - began
                stats.compiles = now.count - compiled.count
                stats.compile_seconds = now.seconds - compiled.seconds
                stats.active = sum(one.active for one in running)
                yield from finished
                if scheduler.idle:
                    running.remove(scheduler)

    def _scheduler(self, device: ModelDevice, queue: Iterator[Request]) -> Scheduler:
        return Scheduler(
            device,
            self.config,
            self._allocator(device),
            device.layout.shards,
            self.eos_ids,
            queue,
            self.stats,
        )

    def _allocator(self, device: ModelDevice) -> PageAllocator:
        size, shards = self.config.page_size, device.layout.shards
        block = table_pages(size)
        per_slot = -(-self.max_length // (size * block)) * block
        return PageAllocator(self._pages, self.config.slots * shards, per_slot, size, shards)

    def _check(self, request: Request) -> Request:
        reason = self.refuses(request)
        if reason:
            raise InputError(reason)
        return request

    def _choose_attention(self) -> str:
        case = Case(jax.default_backend(), self.cfg.head_dim, self.config.page_size)
        chosen = choose(case, self.config.attention).name
        for name, reason in refusals(case).items():
            _log.debug("decode attention %s: %s", name, reason or "can run")
        return chosen

    def _pool_pages(self, kv_dtype: jnp.dtype, layouts: Sequence[Layout]) -> int:
        """Pages of one pool, page 0 included."""
        config, layout = self.config, layouts[0]
        wanted = config.slots * self.max_length
        tokens = config.pool_tokens
        if tokens is None:
            mesh = layout.mesh
            device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
            split = math.prod(mesh.shape[n] for n in layout.kv_heads) if mesh is not None else 1
            pools = len(layouts) * layout.shards
            tokens = default_pool_tokens(self.cfg, wanted, kv_dtype, device, split, pools)
        return 1 + -(-tokens // config.page_size)


def _program_meshes(mesh: ModelMesh | None, replicas: str) -> Sequence[ModelMesh | None]:
    """The mesh of each device program: one for each replica, or one over all of them."""
    if replicas not in ("apart", "together"):
        raise ConfigError(f"engine.replicas is {replicas!r}; choose apart or together")
    if mesh is None or replicas == "together":
        return [mesh]
    return mesh.replicas()


def _placed(params: Params, mesh: ModelMesh | None) -> Params:
    """The parameters on a program's devices, layers apart."""
    apart = isinstance(params["layers"], tuple)
    if mesh is None:
        params = ONE_DEVICE.put(params)
    else:
        params = on_devices(params, mesh.param_shardings("unstacked" if apart else "stacked"))
    return params if apart else unstack_layers(params)
