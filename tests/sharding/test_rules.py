"""Rule tables against models: what cannot be is said with names and numbers."""

import dataclasses

from jax.sharding import PartitionSpec

from tests.sharding.kit import BIASED, TIED, phase
from thinksafe_jax.models import LoraConfig
from thinksafe_jax.sharding import partition_spec, sharding_problems, sharding_warnings

LARGE = dataclasses.replace(TIED, vocab_size=152064, hidden_size=3584)


def test_a_spec_names_the_mesh_axes_of_each_dimension():
    rules = phase(embed="data").rules
    spec = partition_spec(("layers", "heads", "head_dim", "embed"), rules)
    assert spec == PartitionSpec(None, ("kv", "group"), None, "data")


def test_a_table_that_fits_has_no_problems():
    for cfg in (TIED, BIASED):
        assert sharding_problems(cfg, phase(), LoraConfig(r=4)) == []


def test_two_axes_of_one_tensor_on_one_mesh_axis():
    problems = sharding_problems(TIED, phase(embed="kv"))
    assert problems[0] == (
        "embed [vocab, embed]: vocab and embed are both on the mesh axis kv; "
        "give one of them another axis or null"
    )
    assert any(p.startswith("layers.q_proj.kernel [layers, heads, head_dim, embed]: heads and em")
               for p in problems)  # fmt: skip


def test_activations_collide_like_parameters():
    (problem,) = sharding_problems(TIED, phase(batch="group", vocab="kv", mlp="kv"))
    assert problem.startswith("queries [batch, sequence, heads, head_dim]: batch and heads")


def test_a_size_that_does_not_divide():
    (problem,) = sharding_problems(dataclasses.replace(TIED, vocab_size=97), phase())
    assert problem == "vocab 97 does not divide over kv 2 x group 2 = 4 (embed)"
    (problem,) = sharding_problems(dataclasses.replace(BIASED, intermediate_size=90), phase())
    assert problem == (
        "mlp 90 does not divide over kv 2 x group 2 = 4 (layers.gate_proj.kernel and 4 more)"
    )


def test_the_adapters_rank_is_checked_too():
    axes = {"kv": 2, "group": 2, "rank": 4}
    assert sharding_problems(TIED, phase(axes, lora_rank="rank"), LoraConfig(r=4)) == []
    problems = sharding_problems(TIED, phase(axes, lora_rank="rank"), LoraConfig(r=6))
    assert problems == [
        "lora_rank 6 does not divide over rank 4 = 4 (layers.q_proj.a and 3 more)"
    ]  # fmt: skip


def test_kv_heads_that_would_not_meet_their_queries():
    (problem,) = sharding_problems(TIED, phase(kv_heads="group"))
    assert problem.startswith(
        "kv_heads on group must be the first of the axes of heads (kv, group)"
    )
    # 4 KV heads, two on each device, but their queries cut once more
    four = dataclasses.replace(TIED, num_kv_heads=4)
    (problem,) = sharding_problems(four, phase())
    assert problem == (
        "4 KV heads cut 2 ways do not line up with query heads cut 4 ways; cut both alike, or the "
        "KV heads 4 ways"
    )


def test_unknown_names_are_said_before_anything_else():
    assert sharding_problems(TIED, phase(mlp="tensor")) == [
        "the rule of mlp names an unknown mesh axis tensor; the mesh has kv, group"
    ]
    (problem,) = sharding_problems(TIED, phase(mpl="kv"))
    assert problem.startswith("rule for an unknown logical axis mpl; known: batch, sequence")


def test_a_large_tensor_that_nothing_cuts_is_a_warning_with_its_bytes():
    (warning,) = sharding_warnings(LARGE, phase({"kv": 2, "group": 1}, vocab=()), 2)
    assert warning == (
        "embed [vocab, embed]: 2 devices each hold the same 1,089,994,752 bytes; no rule cuts it "
        "over group, kv"
    )
    assert sharding_warnings(LARGE, phase({"kv": 1, "group": 1}, vocab=()), 2) == []


def test_a_tensor_that_is_cut_less_than_the_others_is_a_warning_too():
    both = ("kv", "group")
    table = phase({"kv": 2, "group": 1, "fsdp": 4}, vocab="fsdp", mlp=both)
    (warning,) = sharding_warnings(LARGE, table, 2)
    assert warning.startswith(
        "embed [vocab, embed]: 2 devices each hold the same 272,498,688 bytes"
    )


def test_replicas_hold_the_weights_by_design():
    axes = {"replica": 8, "kv": 1, "group": 1}
    assert sharding_warnings(LARGE, phase(axes, batch="replica"), 2) == []


def test_a_large_activation_that_every_device_computes_is_a_warning():
    table = phase({"kv": 2, "group": 1}, mlp=())
    wide = dataclasses.replace(LARGE, intermediate_size=18944)
    *weights, warning = sharding_warnings(wide, table, 2, rows=1, tokens=4096)
    assert all("_proj" in text for text in weights)
    assert warning == (
        "mlp activations [batch, sequence, mlp]: 2 devices each compute the same 155,189,248 "
        "bytes; no rule cuts it over group, kv"
    )


def test_rows_that_do_not_divide():
    axes = {"data": 4, "kv": 2, "group": 1}
    assert sharding_problems(TIED, phase(axes, batch="data"), rows=8) == []
    (problem,) = sharding_problems(TIED, phase(axes, batch="data"), rows=6)
    assert problem == "batch 6 does not divide over data 4 = 4 (queries and 3 more)"


def test_a_mesh_axis_without_use_is_a_warning():
    (warning,) = sharding_warnings(TIED, phase({"kv": 2, "group": 1, "spare": 4}), 2)
    assert warning == "mesh axis spare: no rule uses it, so 4 devices do the same work"


def test_attention_needs_rows_and_heads_whole():
    axes = {"kv": 2, "group": 1, "other": 2}
    (problem,) = sharding_problems(TIED, phase(axes, sequence="other"))
    assert problem == (
        "sequence on other: only training can cut the tokens of a row, here each device would see "
        "its own only; write `sequence: null`"
    )
    table = phase(axes, head_dim="other")
    (problem,) = sharding_problems(TIED, table, cuts_sequences=True)
    assert problem == (
        "head_dim on other: attention would see a part of each head only; write `head_dim: null`"
    )


def test_replicated_kv_heads_are_a_warning_with_their_bytes():
    (warning,) = sharding_warnings(TIED, phase(), 4)
    # k and v: 2 layers x 1 of 2 KV heads x 16 x 64 x 4 bytes each
    assert warning == (
        "2 KV heads on 4 tensor-parallel devices: each is held 2 times, weights (16,384 bytes a "
        "device) and cache alike"
    )


def test_the_hash_tells_tables_apart():
    assert phase().hash == phase().hash
    other = (phase(mlp=()), phase({"kv": 4, "group": 1}), phase({"group": 2, "kv": 2}))
    assert len({phase().hash, *(s.hash for s in other)}) == 4
