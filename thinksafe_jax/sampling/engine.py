"""The public sampler: a model, its shapes and its randomness; requests in, completions out."""

from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.params import Params, unstack_layers
from thinksafe_jax.sampling.attention import pages_per_block
from thinksafe_jax.sampling.cache import PageAllocator
from thinksafe_jax.sampling.device import ModelDevice
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout
from thinksafe_jax.sampling.memory import default_pool_tokens
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.scheduler import EngineStats, Scheduler


class Engine:
    """Samples completions of one model.

    Args:
        cfg: the model's facts.
        params: its parameters, layers stacked (unstacked once here) or already a tuple.
        config: slots, window, page size, pool and context.
        eos_ids: every id that ends a completion.
        seed: seed of the run; see `Request.random_words` for what else keys a row.
        layout: how weights and KV lie on a tensor-parallel group; `params` lie there already.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        config: EngineConfig,
        eos_ids: Sequence[int],
        seed: int = 0,
        layout: Layout = ONE_DEVICE,
    ):
        self.cfg, self.config, self.eos_ids = cfg, config, tuple(eos_ids)
        self.max_length = min(
            config.max_length or cfg.max_position_embeddings, cfg.max_position_embeddings
        )
        unstacked = params if isinstance(params["layers"], tuple) else unstack_layers(params)
        # XLA:CPU widens a whole bfloat16 pool to float32 and back for every write
        kv_dtype = params["embed"].dtype if jax.default_backend() != "cpu" else jnp.dtype("float32")
        pool_tokens = config.pool_tokens or default_pool_tokens(
            cfg, config.slots * self.max_length, kv_dtype
        )
        self._pages = 1 + -(-pool_tokens // config.page_size)
        self._device = ModelDevice(
            cfg,
            unstacked,
            slots=config.slots,
            pages=self._pages,
            page_size=config.page_size,
            steps=config.window,
            eos_ids=self.eos_ids,
            seed=seed,
            kv_dtype=kv_dtype,
            layout=layout,
        )
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
        size, block = self.config.page_size, pages_per_block(self.config.page_size)
        per_slot = -(-self.max_length // (size * block)) * block
        pages = PageAllocator(self._pages, self.config.slots, per_slot, size)
        queue = map(self._check, requests)
        run = Scheduler(self._device, self.config, pages, self.eos_ids, queue)
        self.stats = run.stats
        return run.completions()

    def _check(self, request: Request) -> Request:
        reason = self.refuses(request)
        if reason:
            raise InputError(reason)
        return request
