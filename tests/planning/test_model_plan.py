"""The plan: numbers that can be checked by hand, exit codes, and no device touched."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from tests.sharding.kit import NAMES, TIED, write_mesh
from tests.support import PUBLISHED, live_arrays, shared_asset
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.models import LoraConfig, abstract_params, init_adapter
from thinksafe_jax.planning import print_plan
from thinksafe_jax.planning.abstract_programs import shard_bytes, train_program
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Settings, phase_budget
from thinksafe_jax.planning.model_plan import make_plan, plan_text
from thinksafe_jax.planning.roofline import decode_cost, decode_roofline, kv_bytes_per_device
from thinksafe_jax.sharding import (
    ModelMesh,
    load_mesh,
    load_rules,
)
from thinksafe_jax.training import make_optimizer


def config(name: str):
    return find_model(str(shared_asset("configs", f"{name}.json")))[1]


def plan_of(name: str, mesh: str):
    return make_plan(name, config(name), load_mesh(mesh))


def follow_advice(plan, mesh, cfg) -> bool:
    """Whether each phase that was told other axes fits with them, and its hosts can drive them."""
    good = []
    for name in ("generate", "train"):
        if axes := getattr(plan, name).nearest:
            topology = mesh.topology.scaled(math.prod(axes.values()) // mesh.topology.chips)
            phase = getattr(mesh, name).with_axes(axes)
            again = dataclasses.replace(mesh, topology=topology, **{name: phase})
            good.append(getattr(make_plan("", cfg, again), name).budget.fits)
            if name == "generate":
                phase.of_host(topology.hosts)
    return all(good)


def test_every_model_on_every_mesh_without_allocating():
    files = sorted(shared_asset("configs").glob("*.json"))
    meshes = [load_mesh(name) for name in NAMES]
    before = len(live_arrays())
    for file in files:
        name, cfg = find_model(str(file))
        for mesh in meshes:
            plan = make_plan(name, cfg, mesh)
            json.dumps(plan.as_json())
            # the shipped tables divide every model
            assert not plan.generate.budget.problems
            assert not plan.train.budget.problems
            assert name in plan_text(plan, parameters=True)
            assert follow_advice(plan, mesh, cfg)
    assert len(jax.live_arrays()) == before


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    assert plan_of(name, "v5e-8").parameters == PUBLISHED[name]


def test_bytes_are_those_of_the_shards():
    file = load_mesh("cpu-8")
    mesh = ModelMesh.of_phase(file.train, TIED)
    settings = Settings("float32", TrainingConfig(lora_r=4))
    lora = settings.lora
    assert lora == LoraConfig(r=4)
    optimizer = make_optimizer(TrainingConfig())
    params = abstract_params(TIED, jnp.float32)
    adapter = jax.eval_shape(lambda: init_adapter(TIED, lora, jax.random.key(0)))
    state = jax.eval_shape(optimizer.init, adapter)
    lies = mesh.adapter_shardings(lora)

    def on_one_device(tree, shardings) -> int:
        def size(x, sharding):
            return math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize

        return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))

    assert phase_budget("train", file.train, TIED, file.topology, settings).bytes == {
        "weights": on_one_device(params, mesh.param_shardings()),
        "adapter": on_one_device(adapter, lies),
        "gradients": on_one_device(adapter, lies),
        "optimizer": on_one_device(state, mesh.optimizer_shardings(optimizer, adapter, lies)),
    }


def test_what_full_fine_tuning_keeps_is_what_its_step_is_given():
    """Weights in float32 with an optimiser of their own size, and no adapter beside them."""
    mesh = load_mesh("cpu-8")
    training = TrainingConfig(full_finetune=True, max_length=64, micro_batch_size=1)
    budget = phase_budget("train", mesh.train, TIED, mesh.topology, Settings("bfloat16", training))
    assert "adapter" not in budget.bytes
    program = train_program(TIED, mesh.train, jax.devices(), training, "bfloat16")
    state = shard_bytes(program.arguments[0])
    step = 4  # the counter of steps, one on each device
    assert budget.bytes["weights"] + budget.bytes["optimizer"] + step == state
    assert budget.bytes["gradients"] == budget.bytes["weights"]


def test_the_listed_parameters_add_up_to_the_weights():
    for phase in (plan := plan_of("Qwen3-8B", "v5e-8")).generate, plan.train:
        assert sum(row.bytes for row in phase.parameters) == phase.budget.bytes["weights"]
    row = next(r for r in plan.train.parameters if r.name == "layers.q_proj.kernel")
    assert row.shape == (36, 32, 128, 4096)
    assert row.spec == "-, kvxgroup, -, fsdp"
    assert row.bytes == 36 * 32 * 128 * 4096 * 2 // 8


@pytest.mark.parametrize(
    ("model", "tensor", "rows", "context", "bandwidth", "flops", "step_ms", "k_tokens"),
    [
        # one H200 at its measured 4.3 TB/s; four v6e and one v5e chip
        ("Qwen3-8B", 1, 64, 4096, 4.3e12, 790e12, 12.5, 5.1),
        ("Qwen3-0.6B", 1, 128, 2048, 4.3e12, 790e12, 7.27, 17.6),
        ("Qwen3-8B", 4, 156, 4096, 1.6e12, 920e12, 17.1, 9.1),
        ("Qwen3-0.6B", 1, 26, 4096, 0.81e12, 197e12, 16.5, 1.6),
    ],
)
def test_the_roofline_is_the_known_one(
    model, tensor, rows, context, bandwidth, flops, step_ms, k_tokens
):
    mesh = load_mesh("v6e-8")
    topology = dataclasses.replace(mesh.topology, hbm_bandwidth=bandwidth, peak_flops=flops)
    cfg = config(model)
    table = mesh.generate.with_axes({"replica": 1, "tensor": tensor}).for_model(cfg)
    roofline = decode_roofline(cfg, table, topology, rows, context, "bfloat16")
    assert 1e3 * roofline.bound.seconds == pytest.approx(step_ms, rel=0.01)
    assert roofline.tokens_per_second / 1e3 == pytest.approx(k_tokens, rel=0.02)
    assert roofline.bound.limit == "memory"
    assert (roofline.all_reduce_bytes > 0) == (tensor > 1)


@pytest.mark.parametrize("cut", ["heads and more of the MLP", "the MLP alone"])
def test_messages_of_decode_are_those_of_each_sum(cut):
    """R1-Distill-Qwen-7B on eight chips has heads on four; a table may leave them whole."""
    mesh, cfg = load_mesh("v6e-8"), config("DeepSeek-R1-Distill-Qwen-7B")
    phase = mesh.generate.with_axes({"replica": 1, "tensor": 8})
    if cut == "the MLP alone":
        whole = dict.fromkeys(("heads", "kv_heads"), ())
        phase = dataclasses.replace(phase, rules={**phase.rules, **whole})
    roofline = decode_roofline(cfg, phase.for_model(cfg), mesh.topology, 64, 4096, "bfloat16")
    of_heads, of_eight = (2 * 3 / 4 if cut != "the MLP alone" else 0.0), 2 * 7 / 8
    sums = cfg.num_layers * (of_heads + of_eight) + of_eight  # the embedding's rows at the end
    sent = 64 * cfg.hidden_size * 2 * sums
    assert roofline.bound.network == sent / (mesh.topology.interconnect_bandwidth / 2)
    operands = cfg.num_layers * (2 if of_heads else 1)
    assert roofline.all_reduce_bytes == operands * 64 * cfg.hidden_size * 2


def test_replicas_multiply_and_a_slow_chip_is_compute_bound():
    mesh, cfg = load_mesh("v6e-8"), config("Qwen3-8B")
    one = mesh.generate.with_axes({"replica": 1, "tensor": 4}).for_model(cfg)
    two = mesh.generate.for_model(cfg)
    rate = decode_roofline(cfg, one, mesh.topology, 64, 4096, "bfloat16").tokens_per_second
    both = decode_roofline(cfg, two, mesh.topology, 64, 4096, "bfloat16")
    assert both.replicas == 2
    assert both.tokens_per_second == pytest.approx(2 * rate, abs=2)
    slow = dataclasses.replace(mesh.topology, peak_flops=1e12)
    assert decode_roofline(cfg, two, slow, 64, 4096, "bfloat16").bound.limit == "compute"


@pytest.mark.parametrize(
    ("model", "total"),
    [("Qwen3-0.6B", 114_688), ("Qwen3-8B", 147_456), ("DeepSeek-R1-Distill-Qwen-7B", 57_344)],
)
def test_cache_bytes_per_token(model, total):
    cfg, mesh = config(model), load_mesh("h200-1")
    assert kv_bytes_per_device(cfg, mesh.generate.for_model(cfg), "bfloat16") == total
    # 16 devices, KV heads held more than once: no device can hold less than one head
    wide = mesh.generate.with_axes({"replica": 1, "tensor": 16}).for_model(cfg)
    assert kv_bytes_per_device(cfg, wide, "bfloat16") == total // cfg.num_kv_heads


def test_int8_keys_and_values_make_room_for_nearly_twice_the_tokens():
    cfg, mesh = config("Qwen3-8B"), load_mesh("v5e-8")
    phase = mesh.generate.for_model(cfg)
    model, rounded = (
        phase_budget("generate", mesh.generate, cfg, mesh.topology, Settings(kv_dtype=name))
        for name in ("model", "int8")
    )
    assert rounded.bytes == model.bytes and rounded.free == model.free
    # 128 bytes and a scale of 4 for each vector of 256 bytes, of 36 layers and 2 of 8 KV heads
    assert rounded.kv_bytes_per_token == 36 * 2 * 2 * 132
    assert rounded.pool_tokens / model.pool_tokens == pytest.approx(256 / 132, rel=1e-5)
    steps = [decode_cost(cfg, phase, 64, 5200, "bfloat16", of) for of in (None, "int8")]
    assert steps[0].flops == steps[1].flops
    saved = steps[0].bytes - steps[1].bytes
    assert saved == 64 * 5200 * 36 * 2 * 2 * (256 - 132)


def test_what_does_not_fit_is_told_the_nearest_that_does():
    plan = plan_of("Qwen3-32B", "v5e-8")
    assert not plan.fits
    assert plan.generate.budget.free < 0
    assert plan.generate.nearest == {"replica": 1, "tensor": 8}
    assert plan.train.budget.fits
    assert "on these chips: generate.axes: replica 1, tensor 8" in plan_text(plan)
    again = dataclasses.replace(
        load_mesh("v5e-8"), generate=load_mesh("v5e-8").generate.with_axes(plan.generate.nearest)
    )
    assert make_plan("", config("Qwen3-32B"), again).fits


def test_more_chips_are_asked_for_only_where_these_cannot_do(tmp_path):
    small = load_mesh(write_mesh(tmp_path, ("16e9", "6e9")))
    plan = make_plan("", config("Qwen3-32B"), small)
    assert plan.train.nearest == {"replica": 1, "tensor": 16}
    assert "on 16 chips" in plan_text(plan)
    # sixteen chips are two hosts, and a replica does not leave its own
    assert plan.generate.nearest is None
    assert "a replica has at most a host's 8 chips" in plan_text(plan)
    tiny = load_mesh(write_mesh(tmp_path, ("16e9", "1e6")))
    assert "no size of these axes does" in plan_text(make_plan("", config("Qwen3-32B"), tiny))


def test_a_size_that_does_not_divide_is_told_one_that_does(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ("replica: 2, tensor: 4", "replica: 1, tensor: 8")))
    cfg = dataclasses.replace(config("DeepSeek-R1-Distill-Qwen-7B"), vocab_size=152_068)
    plan = make_plan("", cfg, mesh)
    text = plan_text(plan)
    assert "vocab 152068 does not divide over kv 4 x group 2 = 8 (embed" in text
    assert plan.generate.nearest == {"replica": 2, "tensor": 4}


def test_heads_that_do_not_divide_over_eight_chips_lie_on_four_and_the_plan_says_what_it_costs():
    mesh = load_rules("tensor-8")(load_mesh("v6e-8"))
    plan = make_plan("", config("DeepSeek-R1-Distill-Qwen-7B"), mesh)
    assert plan.fits
    # q, k, v, o of 28 layers: 7 query heads and a KV head a device, 3,584 wide, and biases
    held = 2 * 28 * (3584 * (7 + 1 + 1 + 7) * 128 + (7 + 1 + 1) * 128)
    assert plan.generate.warnings[-1] == (
        "28 query heads on 8 tensor-parallel devices: they are cut 4 ways, so weights of attention "
        f"({held:,} bytes a device) and cache are held 2 times, and attention is computed 2 times"
    )


def test_a_replica_over_several_hosts_is_refused_as_it_is_when_it_runs(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ("hosts: 1", "hosts: 4"), ("16e9", "32e9")))
    plan = make_plan("", config("Qwen3-8B"), mesh)
    with pytest.raises(ConfigError) as refused:
        mesh.generate.of_host(mesh.topology.hosts)
    assert plan.generate.budget.problems == [str(refused.value)]
    assert plan.generate.nearest == {"replica": 4, "tensor": 2}
    assert plan.train.budget.fits and not plan.fits


def test_the_command_prints_writes_and_says_whether_it_fits(tmp_path, capsys):
    model = str(shared_asset("configs", "Qwen3-8B.json"))
    out = tmp_path / "plan.json"
    assert print_plan(model, "v5e-8", parameters=True, json_out=out)
    printed = capsys.readouterr().out
    assert "layers.gate_proj.kernel     36x12288x4096" in printed
    assert "decode: F = B (2 P + 4 L N h ctx / n), M = W + B ctx kv" in printed
    written = json.loads(out.read_text())
    assert written["fits"]
    norms = 36 * (2 * 4096 + 2 * 128) + 4096  # on every device; all else is cut four ways
    expected = 2 * ((8_190_735_360 - norms) // 4 + norms)
    assert written["generate"]["budget"]["bytes"] == {"weights": expected}
    large = str(shared_asset("configs", "Qwen3-32B.json"))
    assert not print_plan(large, "v5e-8", parameters=False, json_out=None)


def test_rows_are_no_longer_than_the_model_takes():
    cfg = dataclasses.replace(config("Qwen3-0.6B"), max_position_embeddings=4096)
    plan = make_plan("", cfg, load_mesh("v5e-8"))
    pool = plan.generate.budget.pool_tokens
    assert plan.generate.slots == pool // 4096
    assert f"{pool // 4096} rows of 4,096 tokens, or {pool // 4096} at the mean of 4,096" in (
        plan_text(plan)
    )


def test_weights_that_leave_no_room_for_the_cache(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ("16e9", "18e9")))
    text = plan_text(make_plan("", config("Qwen3-32B"), mesh))
    assert "the weights fit, the cache of one row of 16,896 tokens does not; the nearest" in text


@pytest.mark.parametrize(("model", "code"), [("Qwen3-8B", 0), ("Qwen3-32B", 2)])
def test_the_exit_code_says_whether_it_fits(model, code):
    file = str(shared_asset("configs", f"{model}.json"))
    result = CliRunner().invoke(app, ["plan", "--model", file, "--mesh", "v5e-8", "--params"])
    assert result.exit_code == code
    assert "layers.q_proj.kernel" in result.output


def test_it_starts_no_backend():
    """On a TPU host the command must not take the chips; here any backend that starts fails."""
    code = (
        "import jax\n"
        "from thinksafe_jax.sharding import load_mesh\n"
        "from thinksafe_jax.planning.model_plan import make_plan\n"
        "from tests.sharding.kit import TIED\n"
        "make_plan('', TIED, load_mesh('v5e-256'))\n"
        "print('planned')\n"
        "jax.devices()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "none-at-all"},
    )
    assert done.stdout == "planned\n", done.stderr
    assert "none-at-all" in done.stderr


def test_models_by_directory_and_file(tmp_path):
    file = shared_asset("configs", "Qwen3-0.6B.json")
    (tmp_path / "config.json").write_text(file.read_text())
    assert find_model(str(file))[0] == "Qwen3-0.6B"
    by_directory, by_file = find_model(str(tmp_path)), find_model(str(tmp_path / "config.json"))
    assert by_directory == by_file == (tmp_path.name, find_model(str(file))[1])


def test_models_by_name_come_from_configs_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "models"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("repository: owner/mine\nrevision: abc\n")
    file = shared_asset("configs", "Qwen3-0.6B.json")
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        (folder / "config.json").write_text(file.read_text())
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_model("Mine")[1].num_layers == 28
    assert find_model("other/Name")[0] == "Name"
    assert asked == [("owner/mine", "abc", ["config.json"]), ("other/Name", None, ["config.json"])]
    with pytest.raises(ConfigError, match=r"nor a name in configs/models; did you mean mine\?"):
        find_model("mines")


def test_models_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json at"):
        find_model(str(tmp_path / "none.json"))
    file = tmp_path / "bad.json"
    for text, expected in (("{", "not valid JSON"), ("[]", "a JSON object was expected")):
        file.write_text(text)
        with pytest.raises(InputError, match=expected):
            find_model(str(file))
