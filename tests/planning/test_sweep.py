"""The sweep: rows that stand by themselves, reasons instead of crashes, going on after a stop."""

import json
import math
import os
import re
from types import SimpleNamespace

import jax
import pytest
from typer.testing import CliRunner

from tests.sharding.kit import TIED, write_mesh
from tests.support import REPOSITORY
from thinksafe_jax.cli.app import app
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.planning import settings_of
from thinksafe_jax.planning.model_plan import bound_text
from thinksafe_jax.planning.roofline import (
    Cost,
    bound_of,
    decode_cost,
    guard_cost,
    kv_bytes_per_device,
    train_cost,
)
from thinksafe_jax.planning.sweep import _identity, combinations_of, read_rows, sweep
from thinksafe_jax.planning.sweep_best import draft_lines
from thinksafe_jax.planning.sweep_between import between_lines, between_rows
from thinksafe_jax.planning.sweep_programs import training_part
from thinksafe_jax.planning.sweep_report import sweep_plot
from thinksafe_jax.sharding import adapter_tensors, load_mesh, load_rules

pytestmark = pytest.mark.slow

SIZES = {"prompt": 32, "slots": 2, "length": 64, "rows": 4, "context": 128, "dtype": "float32"}
SETTINGS = settings_of(**SIZES, measure=False)


def cells(mesh, *tables, phases=("decode", "train")):
    named = [("own", lambda mesh: mesh), *tables]
    return list(combinations_of([("tiny", TIED)], [mesh], named, phases))


def test_a_row_for_each_phase_with_memory_work_collectives_and_the_compiler(tmp_path):
    out = tmp_path / "sweep.json"
    decode, train = rows = sweep(cells(load_mesh("cpu-8")), SETTINGS, out)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert json.loads(out.read_text())["rows"] == rows
    assert json.loads(out.read_text())["machine"]["cores"] > 0
    assert decode["collectives"]["all-reduce"]["count"] >= 2 * TIED.num_layers + 1
    assert "all-gather" in train["collectives"]
    for row in rows:
        assert row["compiler"] == "cpu"
        assert row["peak_bytes"] == row["argument_bytes"] + row["temporary_bytes"] > 0
        assert row["compile_seconds"] > 0
        times = [row[f"{what}_seconds"] for what in ("compute", "memory", "network")]
        assert row["roofline_seconds"] == max(times)
        expected = row["programs"] * row["tokens"] / max(times)
        assert row["tokens_per_second"] == pytest.approx(expected)
    assert decode["rules_hash"] != train["rules_hash"]
    assert "<svg" in sweep_plot(rows)


def test_what_is_there_is_kept_and_what_failed_is_tried_again(tmp_path):
    out = tmp_path / "sweep.json"
    (first,) = sweep(cells(load_mesh("cpu-8"), phases=["prefill"]), SETTINGS, out)
    first["peak_bytes"] = 17  # told apart from one that is compiled again
    broken = {**first, "phase": "decode", "status": "failed", "reason": "x"}
    out.write_text(json.dumps({"machine": {}, "rows": [first, broken]}))
    rows = sweep(cells(load_mesh("cpu-8"), phases=["prefill", "decode"]), SETTINGS, out)
    assert rows[0] == first
    assert [row["status"] for row in rows] == ["ok", "ok"]
    out.write_text("[]")
    with pytest.raises(InputError, match="no result of sweep-sharding"):
        read_rows(out)


def test_rows_of_other_compiler_flags_are_other_rows(tmp_path, monkeypatch):
    """They are kept beside each other, each for the flags that its compiler had."""
    monkeypatch.setattr("thinksafe_jax.planning.sweep.has_compiler", lambda topology: True)
    compiled = []

    def figures(combination, settings):
        compiled.append(os.environ["LIBTPU_INIT_ARGS"])
        return {"status": "refused", "reason": "not here"}

    monkeypatch.setattr("thinksafe_jax.planning.sweep.figures_of", figures)
    for flags in ("", "--xla_a=1", "", "--xla_a=1"):
        monkeypatch.setenv("LIBTPU_INIT_ARGS", flags)
        rows = sweep(cells(load_mesh("cpu-8"), phases=["decode"]), SETTINGS, tmp_path / "s.json")
    assert compiled == ["", "--xla_a=1"]
    assert [row.get("xla_flags") for row in rows] == [None, "--xla_a=1"]


def test_what_cannot_be_is_a_row_with_its_reason(tmp_path):
    assert jax.device_count() == 8  # JAX has started: too late for v5e-16 to ask for more
    tensor = load_rules(REPOSITORY / "configs/rules/tensor-8.yaml")
    three = load_mesh(write_mesh(tmp_path, ("chips: 8", "chips: 4"), ("replica: 2", "replica: 1")))
    own, refused = sweep(cells(three, ("t", tensor), phases=["decode"]), SETTINGS, None)
    assert own["status"] == "ok"
    assert refused["status"] == "refused"
    assert "x tensor 8 = 8; topology.chips is 4" in refused["reason"]
    apart = load_mesh(write_mesh(tmp_path, ("hosts: 1", "hosts: 4")))
    (refused,) = sweep(cells(apart, phases=["decode"]), SETTINGS, None)
    assert (refused["status"], "2 replica(s) do not" in refused["reason"]) == ("refused", True)
    tiny = load_mesh(write_mesh(tmp_path, ("16e9", "1e5")))
    automatic = settings_of(**{**SIZES, "slots": None}, measure=False)
    (large,) = sweep(cells(tiny, phases=["decode"]), automatic, None)
    assert large["status"] == "too large"
    assert "no room for a row of 128 tokens" in large["reason"]
    many = load_mesh("v5e-16")
    (missing,) = sweep(cells(many, phases=["train"]), SETTINGS, None)
    assert missing["status"] == "failed"
    assert "8 host devices, 16 are needed" in missing["reason"]


def test_a_table_that_cuts_sequences_is_a_candidate_which_needs_less():
    """Each device then has a quarter of the tokens; the generate phase keeps the mesh's table."""
    mesh, table = load_mesh("cpu-8"), ("sequence-4", load_rules("sequence-4"))
    fsdp = load_rules("whole")(mesh)
    long = settings_of(**{**SIZES, "length": 256, "rows": 1}, measure=False)
    own, cut = sweep(cells(fsdp, table, phases=["train"]), long, None)
    assert cut["axes"] == {"fsdp": 2, "sequence": 4}
    assert cut["collectives"]["all-to-all"]["count"] > 0 and "all-to-all" not in own["collectives"]
    assert cut["temporary_bytes"] < 0.5 * own["temporary_bytes"]
    assert [c.table for c in cells(mesh, table, phases=["decode"])] == ["own"]


def test_training_cost_falls_with_the_devices_that_share_a_row():
    """All of it, attention included: any packing is even."""
    table = load_rules("sequence-4")(load_mesh("cpu-8")).train
    whole = table.with_axes({"fsdp": 8, "sequence": 1}).for_model(TIED)
    costs = [train_cost(TIED, p, 1, 64, "bfloat16").flops for p in (whole, table.for_model(TIED))]
    assert costs[0] == pytest.approx(4 * costs[1])


def test_rest_is_what_the_other_axes_leave(tmp_path):
    whole = load_rules(REPOSITORY / "configs/rules/whole.yaml")
    assert whole(load_mesh("v5e-16")).train.axes == {"fsdp": 16}
    assert whole(load_mesh("h100-8")).generate.axes == {"replica": 8}
    # the same table twice is compiled once
    named = [("whole", whole), ("again", whole)]
    found = list(combinations_of([("tiny", TIED)], [load_mesh("cpu-8")], named, ["train"]))
    assert [one.table for one in found] == ["whole"]
    none = tmp_path / "none.yaml"
    none.write_text("axes: {a: 1}\n")
    with pytest.raises(ConfigError, match="expected the sections train and generate"):
        load_rules(none)


def test_the_bound_is_the_slowest_of_three():
    topology = load_mesh("v5e-8").topology
    bound = bound_of(Cost(flops=197e12, bytes=819e9 / 2), 100e9, topology)
    assert (bound.compute, bound.memory, bound.network) == (1.0, 0.5, 0.5)
    assert (bound.limit, bound.seconds) == ("compute", 1.0)


def test_between_slices_the_bound_is_what_crosses():
    topology = load_mesh("v5e-256x2").topology
    bound = bound_of(Cost(flops=197e12, bytes=0.0), 0.0, topology, dcn_bytes=2 * 3.125e9)
    assert (bound.compute, bound.dcn, bound.limit, bound.seconds) == (1.0, 2.0, "dcn", 2.0)
    assert bound_text(bound).endswith("network 0.00, dcn 2,000.00)")


def test_a_training_step_sends_only_gradients_to_another_slice():
    """A device's part of the adapter's gradients, float32, once, and a few sums of the loss."""
    (row,) = sweep(cells(load_mesh("cpu-4x2"), phases=["train"]), SETTINGS, None)
    (alone,) = sweep(cells(load_mesh("cpu-8"), phases=["train"]), SETTINGS, None)
    assert row["axes"] == alone["axes"] and row["rules_hash"] != alone["rules_hash"]
    gradients = 4 * sum(
        math.prod(tensor.shape) for tensor in adapter_tensors(TIED, SETTINGS.sizes.lora).values()
    )
    # each device sends its part on; what no axis in the slice cuts is cut by the ring there
    assert gradients / 4 <= row["dcn_bytes"] <= gradients / 2
    assert row["dcn_seconds"] == row["dcn_bytes"] / 1e9
    assert (alone["dcn_bytes"], alone["dcn_seconds"]) == (0, 0)
    assert row["collective_bytes"] == alone["collective_bytes"]


def test_costs_by_hand():
    """Two devices of tensor parallelism do half each; FSDP gathers and does all of its rows."""
    mesh = load_mesh("cpu-8")
    d, f, heads, kv, h, layers = 64, 96, 8, 2, 16, 2
    kernels = layers * (d * h * (2 * heads + 2 * kv) + 3 * d * f)
    norms = layers * (2 * d + 2 * h)
    two = mesh.generate.with_axes({"replica": 4, "tensor": 2}).for_model(TIED)
    own, head = kernels // 2 + norms, 96 * d // 2
    scores = 4 * layers * heads * h / 2
    cost = decode_cost(TIED, two, 3, 100, "float32")
    assert cost.flops == 3 * (2 * (own + head) + scores * 100)
    assert cost.bytes == 4 * (own + head) + 3 * 100 * 2 * layers * (kv // 2) * h * 4
    assert guard_cost(TIED, two, 1, 50, "float32").flops == 50 * (2 * own + scores * 50 / 2)
    train = mesh.train.with_axes({"data": 1, "fsdp": 4, "tensor": 2}).for_model(TIED)
    step = train_cost(TIED, train, 1, 50, "float32")
    assert step.flops == 50 * (6 * own + 4 * head + 4.5 * scores * 50 / 2)
    assert train_cost(TIED, train, 1, 50, "float32", remat=False).flops < step.flops
    assert step.bytes == 4 * (3 * own + 2 * head)
    assert train_cost(TIED, train, 1, 50, "bfloat16").bytes == step.bytes / 2
    whole = train_cost(TIED, train, 1, 50, "bfloat16", full_finetune=True)
    assert whole.bytes == 4 * (4 * own + 2 * head)  # what is trained is float32
    both = train_cost(TIED, train, 1, 50, "float32", reference=True)  # one forward pass more
    assert both.flops - step.flops == 50 * (2 * (own + head) + scores * 50 / 2)
    assert both.bytes - step.bytes == 4 * (own + head)
    drafted = decode_cost(TIED, two, 3, 100, "float32", positions=4)
    assert (drafted.flops, drafted.bytes) == (4 * cost.flops, cost.bytes)


def test_a_pass_with_drafts_reads_as_much_as_a_step_and_computes_each_position():
    settings = settings_of(**SIZES, measure=False, drafts=2)
    cells_of = cells(load_mesh("cpu-8"), phases=["decode", "drafted"])
    step, drafted = sweep(cells_of, settings, None)
    assert (drafted["rows"], drafted["tokens"]) == (2, 2 * 3)
    assert drafted["read_bytes"] == step["read_bytes"]
    assert drafted["flops"] == 3 * step["flops"]
    assert drafted["wire_bytes"] > 2 * step["wire_bytes"]  # sums over the tensor axis, by position
    assert drafted["settings"] == step["settings"] | {"drafts": 2}
    (line,) = draft_lines([step, drafted])
    assert line.startswith("tiny on cpu-8, own: a pass of 3 positions takes as long as ")


def test_an_on_policy_step_is_its_decode_steps_and_its_passes_beside_each_other():
    """64 rollouts of 32 tokens behind prompts of 32, two replicas of two rows: 512 steps."""
    mesh = load_mesh("cpu-8")
    step, loop = sweep(cells(mesh, phases=["decode", "on-policy"]), SETTINGS, None)
    assert (loop["rows"], loop["tokens"], loop["slots"]) == (64, 64 * 32, 2)
    assert loop["sampling_seconds"] == pytest.approx(512 * step["roofline_seconds"])
    part = training_part(cells(mesh)[0], SETTINGS, "rollout-streams")
    assert part.program.tokens == 4 * 64  # so 16 passes
    assert loop["training_seconds"] == pytest.approx(16 * part.bound(mesh.topology).seconds)
    names = ("sampling", "adapter", "training")
    parts = {name: loop[f"{name}_seconds"] for name in names}
    assert loop["roofline_seconds"] == sum(parts.values())
    assert loop["limit"] == max(parts, key=parts.__getitem__)
    assert loop["tokens_per_second"] == 64 * 32 / loop["roofline_seconds"]
    sums = [row["collectives"]["all-reduce"]["count"] for row in (step, loop)]
    assert sums[1] == 512 * sums[0] + 16 * part.compiled.collectives["all-reduce"].count
    (between,) = between_rows(cells(mesh), SETTINGS)
    pool = 2 * 128 * kv_bytes_per_device(TIED, mesh.generate.for_model(TIED), "float32")
    assert loop["argument_bytes"] == part.compiled.arguments + between["moved"] + pool
    assert loop["axes"] == {
        f"{kind} {axis}": size
        for kind, phase in (("train", mesh.train), ("generate", mesh.generate))
        for axis, size in phase.for_model(TIED).axes.items()
    }


def test_a_loop_that_leaves_no_room_for_a_row_is_too_large_and_says_of_what(tmp_path):
    small = load_mesh(write_mesh(tmp_path, ("16e9", "2e5")))
    (row,) = sweep(cells(small, phases=["on-policy"]), SETTINGS, None)
    assert row["status"] == "too large"
    assert "GB a device leave no room for a row of 128 tokens" in row["reason"]
    apart = load_mesh(write_mesh(tmp_path, ("hosts: 1", "hosts: 4")))
    (row,) = sweep(cells(apart, phases=["on-policy"]), SETTINGS, None)
    assert (row["status"], "2 replica(s) do not" in row["reason"]) == ("refused", True)


def test_the_command_measures_on_the_devices_at_hand(tmp_path):
    out, plot = tmp_path / "rows.json", tmp_path / "plot.svg"
    options = [f"--{name}={value}" for name, value in SIZES.items()]
    command = ["sweep-sharding", "--models=mini:student", "--meshes=cpu-8", "--measure", *options]
    command += ["--phases=on-policy,train,prefill,drafted,decode"]
    table, pareto = tmp_path / "rows.csv", tmp_path / "pareto.svg"
    files = [f"--json={out}", f"--csv={table}", f"--plot={plot}", f"--pareto={pareto}"]
    files += [f"--hlo={tmp_path / 'hlo'}"]
    result = CliRunner().invoke(app, [*command, *files])
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    rows, (between,) = content["rows"], content["between"]
    assert "Between the phases, where a run is on-policy:" in result.output
    assert (between["model"], between["table"]) == ("mini:student", "own")
    phases = ["decode", "drafted", "prefill", "train", "on-policy"]
    assert [row["phase"] for row in rows] == phases
    texts = sorted(path.name for path in (tmp_path / "hlo").iterdir())
    programs = [*phases[:-1], "on-policy-decode", "on-policy-train"]
    assert texts == sorted(f"{name}-mini-student-cpu-8-own.hlo.txt" for name in programs)
    assert all(0 < row["measured_seconds"] < math.inf for row in rows)
    assert "measured" in result.output
    assert "t >= max(F / flops" in result.output
    assert "What drafts must bring:" in result.output
    assert plot.read_text().startswith("<?xml") and pareto.read_text().startswith("<?xml")
    assert table.read_text().count("\n") == 1 + len(rows)
    # the same file is its own bound here: what was measured has both
    compared = CliRunner().invoke(app, ["sweep-sharding", "--compare", str(out), str(out)])
    assert compared.exit_code == 0 and "ratio" in compared.output
    incomplete = CliRunner().invoke(app, ["sweep-sharding", "--models=x"])
    assert "give --models and --meshes, or --compare" in str(incomplete.exception)


def test_what_is_timed_can_be_traced(tmp_path):
    """Calls after those that are timed, in a folder of the row's name."""
    options = [f"--{name}={value}" for name, value in SIZES.items()]
    command = ["sweep-sharding", "--models=mini:student", "--mesh=cpu-8", *options]
    command += ["--measure", "--phases=prefill", f"--profile={tmp_path}", "--profile-steps=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert [folder.name for folder in tmp_path.iterdir()] == [
        "prefill-mini-student-cpu-8-own-host0"
    ]
    assert any(tmp_path.rglob("*.xplane.pb"))


def plotted_row(model: str, mesh: str, table: str, status: str = "ok", fits: bool = True) -> dict:
    row = {"model": model, "mesh": mesh, "table": table, "phase": "decode", "status": status}
    figures = {"fits": fits, "tokens_per_second": 8e3, "chips": 4}
    return row | figures | {"network_seconds": 0.3, "roofline_seconds": 1.0}


def test_the_picture_says_why_a_bar_is_missing_and_keeps_one_order():
    rows = [
        plotted_row("small", "near", "own"),
        plotted_row("large", "near", "own", fits=False),
        plotted_row("small", "far", "whole", "refused"),
        plotted_row("large", "far", "whole", "too large"),
        plotted_row("small", "near", "whole", "failed"),
        plotted_row("small", "far", "own"),
    ]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", sweep_plot(rows))
    for text in ("2,000, network 30%", "2,000, does not fit", "refused", "failed", "does not fit"):
        assert texts.count(text) == (2 if text == "2,000, network 30%" else 1), text
    assert texts.count("not tried") == 2  # large on near/whole and far/own
    places = [text for text in texts if text in ("near", "far", "own", "whole")]
    assert places == ["near", "own", "near", "whole", "far", "own", "far", "whole"]


def test_between_the_phases_are_both_layouts_and_what_is_moved(tmp_path):
    """Where both phases cut alike nothing is there twice; a table that cannot be has no row."""
    alike = load_mesh(write_mesh(tmp_path))
    odd = load_mesh(write_mesh(tmp_path, ("hosts: 1", "hosts: 4")))
    (row,) = between_rows([*cells(alike), *cells(odd, phases=["decode"])], SETTINGS)
    assert (row["moved"], row["received"]) == (0, 0) and row["shared"] > 0
    (apart,) = between_rows(cells(load_mesh("cpu-8")), SETTINGS)
    assert apart["moved"] >= apart["received"] > 0
    assert apart["held_bytes"] > apart["moved"] + apart["adapter_bytes"] / 8
    (line,) = between_lines([apart])
    assert line.startswith("tiny on cpu-8, own: ") and "there twice" in line
    more = between_rows(
        cells(load_mesh("cpu-8")), settings_of(**SIZES, measure=False, kv_dtype="int8")
    )
    assert next(more)["pool_tokens"] > 2 * apart["pool_tokens"]


def test_keys_and_values_in_int8_are_another_program_of_the_same_table():
    eight = settings_of(**SIZES, measure=False, kv_dtype="int8")
    (row,) = sweep(cells(load_mesh("cpu-8"), phases=["decode"]), eight, None)
    (full,) = sweep(cells(load_mesh("cpu-8"), phases=["decode"]), SETTINGS, None)
    assert row["settings"] == full["settings"] | {"kv_dtype": "int8"}
    assert row["read_bytes"] < full["read_bytes"]
    assert row["argument_bytes"] < full["argument_bytes"]


def test_what_is_timed_is_compiled_for_the_device_at_hand(monkeypatch):
    """A GPU's row said CPU. What is only compiled for its mesh is XLA:CPU's."""
    timed = settings_of(**SIZES, measure=True)
    combination = cells(load_mesh("h100-8"))[0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for kind, name in (("NVIDIA H200", "NVIDIA H200 SXM"), ("NVIDIA GeForce", "NVIDIA GeForce")):
        device = SimpleNamespace(device_kind=kind)
        monkeypatch.setattr(jax, "devices", lambda *_, device=device: [device])
        assert _identity(combination, timed)["compiled_for"] == name
    assert _identity(combination, SETTINGS)["compiled_for"] == "CPU"
