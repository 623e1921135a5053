"""What separates a sampler from a toy, one check each.

The others are in test_engine (static batches, random numbers by slot, padding, end of sequence,
pools, lengths), test_next_token (order of the filters, sorts) and test_sharding (gathered pools and
logits).
"""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sampling.kit import RANDOM, engine, requests, run
from tests.support import live_arrays
from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.sampling import Request, decode, prefill
from thinksafe_jax.sampling.pages import PageAllocator

pytestmark = pytest.mark.slow

VOCABULARY = 97  # of the tiny model


def compiled_decode(sampler):
    device = sampler._devices[0]
    table = device.layout.put(sampler._allocator(device).table, device.layout.rows)
    return decode.lower(
        device.params, device.cache, device.slots, table, spec=replace(device.spec, steps=8)
    ).compile()


def test_a_longer_context_limit_costs_a_step_nothing(model):
    """Attention that reads padding would need temporaries for it."""
    temporary = [
        compiled_decode(engine(model, max_length=length)).memory_analysis().temp_size_in_bytes
        for length in (64, 512)
    ]
    tables = 4 * 4 * 512 // 16  # bytes of the larger table: slots x int32 x pages
    assert temporary[1] - temporary[0] <= 4 * tables


def test_the_cache_is_updated_in_place(model):
    """Nothing of the cache's size is copied, and all of it is the program's own input."""
    sampler = engine(model, pool_tokens=16_384)
    memory = compiled_decode(sampler).memory_analysis()
    cache = sampler._devices[0].cache.nbytes
    assert memory.alias_size_in_bytes >= 0.98 * cache
    assert memory.temp_size_in_bytes <= 0.2 * cache


def test_decode_runs_a_known_number_of_steps_without_a_sort_of_the_vocabulary(model):
    text = compiled_decode(engine(model)).as_text()
    assert '"known_trip_count":{"n":"8"}' in text
    for line in text.splitlines():
        if re.search(r"\bsort\(|rng-bit-generator\(", line):
            assert f",{VOCABULARY}]" not in line.split("(")[0]


def test_prefill_has_no_logits(model):
    sampler = engine(model)
    device = sampler._devices[0]
    tokens, pages = np.zeros((1, 64), np.int32), np.zeros((1, 4), np.int32)
    lowered = prefill.lower(
        device.params, device.cache, tokens, np.ones(1, np.int32), pages, cfg=sampler.cfg
    )
    assert f"[1,64,{VOCABULARY}]" not in lowered.compile().as_text()
    assert f"64x{VOCABULARY}x" not in lowered.as_text()


def test_nothing_is_compiled_after_warm_up(model):
    """200 random prompts, every kind of options, a pool that runs out."""
    sampler = engine(model, slots=8, pool_tokens=640)
    sampler.warm_up()
    rng = np.random.default_rng(5)
    kinds = [(0.0, 1.0, 0), (0.6, 0.95, 20), (1.0, 0.9, 0)]
    batch = [
        Request(
            f"r{n}",
            rng.integers(1, VOCABULARY, rng.integers(1, 180)).tolist(),
            SamplingConfig(*kinds[n % 3], 0.0, int(rng.integers(1, 70))),
        )
        for n in range(200)
    ]
    assert len(run(sampler, batch)) == 200
    assert sampler.stats.preemptions > 0
    assert sampler.stats.compiles == 0


def test_a_second_run_allocates_nothing(model):
    sampler = engine(model)
    run(sampler, requests(6))
    before = sum(x.nbytes for x in live_arrays())
    run(sampler, requests(9))
    assert sum(x.nbytes for x in jax.live_arrays()) == before


def test_the_host_reads_once_a_window_and_moves_nothing_unasked(model):
    sampler = engine(model)
    device, reads = sampler._devices[0], []
    read = device.read
    device.read = lambda window: reads.append(1) or read(window)
    completions = sampler.generate(requests(9))
    with jax.transfer_guard("disallow"):
        assert len(list(completions)) == 9
    assert len(reads) == sampler.stats.windows


def test_every_admission_is_one_prefill_and_tokens_are_counted_once(model):
    sampler = engine(model, pool_tokens=160)
    batch = requests(20)
    done = run(sampler, batch)
    prompts = sum(len(request.prompt_ids) > 1 for request in batch)
    assert sampler.stats.preemptions > 0
    assert prompts <= sampler.stats.prefill_calls <= prompts + sampler.stats.preemptions
    ended = sum(c.finish_reason == "stop" for c in done.values())
    useful = sum(len(c.token_ids) for c in done.values()) + ended
    assert sampler.stats.tokens == useful  # the end-of-sequence token included


def test_pages_of_others_are_never_read(model):
    """NaN everywhere but in what the run itself writes changes no token."""
    base = run(engine(model), requests(9))
    sampler = engine(model)
    device = sampler._devices[0]
    device.cache = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), device.cache)
    # page 0 and the rest of a last page are read and masked: the walk must not let 0 x NaN through
    assert {i: c.token_ids for i, c in run(sampler, requests(9)).items()} == {
        i: c.token_ids for i, c in base.items()
    }


@pytest.mark.parametrize("shards", [1, 2])
def test_no_page_is_lost_or_owned_twice(shards):
    rng = np.random.default_rng(0)
    pages = PageAllocator(12, 6, 10, 16, shards)
    held = [0] * 6
    for _ in range(2000):
        slot = int(rng.integers(6))
        if rng.random() < 0.3:
            pages.release(slot)
            held[slot] = 0
        else:
            tokens = int(rng.integers(1, 161))
            free, need = pages.free_pages(slot), max(0, -(-tokens // 16) - held[slot])
            assert pages.reserve(slot, tokens) == (need <= free)
            held[slot] += need if need <= free else 0
        for shard in range(shards):
            own = [s for s in range(6) if pages.shard_of(s) == shard]
            used = [p for s in own for p in pages.table[s][: held[s]]]
            assert len(set(used)) == len(used)
            assert 0 not in used
            assert len(used) + pages.free_pages(own[0]) == 11


def test_random_options_beside_each_other(model):
    """A row's tokens do not depend on what its neighbours ask for."""
    one = requests(8)[7]
    alone = run(engine(model), [one])[one.id]
    wild = SamplingConfig(2.0, 1.0, 0, 0.0, 60)
    batch = [one, *(Request(f"w{n}", [n + 1], wild) for n in range(7))]
    assert run(engine(model), batch)[one.id] == alone
    assert one.sampling == RANDOM
