"""The search: what is proposed, how near its estimates come, what wins, and the file it writes."""

import dataclasses
import json
import math

import pytest
from typer.testing import CliRunner

from tests.sharding.kit import TIED, write_mesh
from tests.support import REPOSITORY
from thinksafe_jax.cli.app import app
from thinksafe_jax.planning import settings_of
from thinksafe_jax.planning.estimate import train_sent, train_temporaries
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.roofline import decode_sent
from thinksafe_jax.planning.search import PROGRAM, PhaseSearch, SearchRequest, search
from thinksafe_jax.planning.search_report import result_lines
from thinksafe_jax.planning.search_space import proposals
from thinksafe_jax.planning.sweep import read_rows
from thinksafe_jax.sharding import LOGICAL_AXES, load_mesh, load_rules

SIZES = {"prompt": 32, "slots": 2, "length": 64, "rows": 4, "context": 128, "dtype": "float32"}
SETTINGS = settings_of(**SIZES, measure=False)
RESULTS = REPOSITORY / "scripts/bench/results"
KEPT = [
    row
    for name in ("sharding_sweep", "sharding_search")
    for row in read_rows(RESULTS / f"{name}.json")
    if row["status"] == "ok" and row["phase"] != "prefill" and "cpu" in row["compiler"]
]
MODELS = {
    "Qwen3-8B": "qwen3-8b",
    "Qwen3-32B": "qwen3-32b",
    "DeepSeek-R1-Distill-Qwen-7B": "r1-distill-qwen-7b",
}


@pytest.mark.parametrize("kind", ["train", "generate"])
def test_every_proposal_uses_all_chips_and_has_a_rule_for_every_axis(kind):
    topology = load_mesh("v5e-8").topology
    tables = list(proposals(kind, topology))
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert math.prod(table.phase.axes.values()) == topology.chips
        assert set(table.phase.rules) == set(LOGICAL_AXES)
        named = {name for names in table.phase.rules.values() for name in names} - {"kv"}
        assert named <= set(table.phase.axes)
    axes = [table.phase.axes for table in tables]
    rows = {"train": {"fsdp": 4}, "generate": {"replica": 4}}[kind]
    assert {**rows, "tensor": 2} in axes and {**rows, "tensor": 1, "ffn": 2} in axes


def test_training_may_cut_the_tokens_of_a_row_and_generation_never_does():
    topology = load_mesh("v5e-16").topology
    tables = {table.name: table.phase for table in proposals("train", topology)}
    cut = tables["fsdp 4 x sequence 4"]
    assert cut.rules["sequence"] == ("sequence",) and cut.rules["embed"] == ("fsdp", "sequence")
    by_hand = load_rules("sequence-4")(load_mesh("v5e-16")).train
    _, cfg = find_model("qwen3-8b")
    assert [cut.for_model(cfg).num_shards(name) for name in LOGICAL_AXES] == [
        by_hand.for_model(cfg).num_shards(name) for name in LOGICAL_AXES
    ]
    assert not any("sequence" in table.phase.axes for table in proposals("generate", topology))


def test_long_rows_are_cut_where_no_other_table_has_room(monkeypatch):
    """Rows of 32,768 tokens on chips of 16 GB: estimates put first what fits."""
    tried = []

    def note(combination, settings):
        tried.append(combination)
        return {"status": "refused", "reason": "not compiled here"}

    monkeypatch.setattr("thinksafe_jax.planning.sweep.figures_of", note)
    settings = settings_of(
        **SIZES | {"length": 32768, "rows": 2, "dtype": "bfloat16"}, measure=False
    )
    model, cfg = find_model("qwen3-8b")
    search(SearchRequest(model, cfg, load_mesh("v5e-16"), settings, 6), None)
    trained = [combination for combination in tried if combination.phase == "train"]
    assert trained[0].table == "own"
    assert all(c.divided.num_shards("sequence") > 1 for c in trained[1:])


def test_rows_lie_across_slices_on_the_outermost_axis_that_can():
    dcn = {t.name: t.phase.dcn for t in proposals("train", load_mesh("v5e-256x2").topology)}
    assert dcn["data 2 x fsdp 64 x tensor 4"] == {"data": 2}
    assert dcn["fsdp 128 x tensor 4"] == {"fsdp": 2}
    assert dcn["tensor 512"] == {}


def phase_of(row):
    mesh = load_mesh(row["mesh"])
    kind = "train" if row["phase"] == "train" else "generate"
    searched = {table.name: table.phase for table in proposals(kind, mesh.topology)}
    _, cfg = find_model(MODELS[row["model"]])
    if row["table"] in searched:
        return cfg, searched[row["table"]].for_model(cfg)
    mesh = mesh if row["table"] == "own" else load_rules(row["table"])(mesh)
    return cfg, getattr(mesh, kind).for_model(cfg)


def test_estimates_are_near_what_compiled_programs_say():
    """Of the kept sweep and search, for simulated devices: three models, five chips."""
    for row in KEPT:
        cfg, phase = phase_of(row)
        if row["phase"] == "decode":
            sent = decode_sent(cfg, phase, row["rows"], 2)
            assert sent == pytest.approx(row["wire_bytes"], rel=0.005)
            continue
        positions = row["tokens"] // phase.num_shards("batch") // phase.num_shards("sequence")
        temporaries = train_temporaries(cfg, phase, positions, 2)
        assert temporaries == pytest.approx(row["temporary_bytes"], rel=0.06)
        assert train_sent(cfg, phase, positions, 2) == pytest.approx(row["wire_bytes"], rel=0.06)
    assert len(KEPT) > 50 and sum("sequence" in row["axes"] for row in KEPT) > 5


def figures(combination, settings):
    """Stands for compiling: a cut of four is fastest, a cut of eight does not fit."""
    cut = math.prod(combination.divided.axes.get(name, 1) for name in ("kv", "group", "ffn"))
    return {
        "status": "ok", "fits": cut < 8, "programs": 1, "rows": 8, "tokens": 8, "peak_bytes": 8e9,
        "compute_seconds": 0.1, "memory_seconds": 1.0, "network_seconds": 0.0, "limit": "memory",
        "roofline_seconds": 1.0, "tokens_per_second": 1e9 if cut == 4 else 1.0,
    }  # fmt: skip


def test_the_best_are_compiled_and_the_rest_is_counted(monkeypatch):
    monkeypatch.setattr("thinksafe_jax.planning.sweep.figures_of", figures)
    mesh = load_mesh("cpu-8")
    wide = dataclasses.replace(mesh, generate=mesh.generate.with_axes({"replica": 1, "tensor": 8}))
    reported = []
    results = search(SearchRequest("tiny", TIED, wide, SETTINGS, 11), None, reported.append)
    assert [row["phase"] for row in reported] == ["decode"] * 6 + ["train"] * 5
    for result in results.values():
        assert result.rows[0]["table"] == "own"  # the mesh's own is always among them
        counted = result.refused.total() + result.cannot_beat + result.over_budget
        assert result.proposed == len(result.rows) + counted
        assert set(result.tables) == {row["table"] for row in result.rows}
    generate = results["generate"]
    assert generate.rows[0] not in generate.ranked  # it does not fit
    best = generate.tables[generate.ranked[0]["table"]].for_model(TIED)
    assert best.num_shards("mlp") == 4
    shown = list(result_lines(generate))
    assert shown[1].startswith(
        f"  best: {generate.ranked[0]['table']}, 125,000,000 tokens/s a chip"
    )
    assert shown[2].startswith("  runner-up: ")
    assert shown[-1].endswith("refused: own needs 8.0 GB a chip, more than there is")


def test_nothing_is_compiled_that_is_slower_even_without_messages(monkeypatch):
    """Every rate of these figures is above what the roofline says of the other tables."""

    def fast(combination, settings):
        return figures(combination, settings) | {"tokens_per_second": 1e15, "fits": True}

    monkeypatch.setattr("thinksafe_jax.planning.sweep.figures_of", fast)
    results = search(SearchRequest("tiny", TIED, load_mesh("cpu-8"), SETTINGS, 20), None)
    for result in results.values():
        assert len(result.rows) == 2 and result.over_budget == 0  # the best and a runner-up
        assert result.cannot_beat == result.proposed - 2 - result.refused.total() > 5


def test_a_table_that_cannot_be_is_counted_under_its_reason(tmp_path):
    """No budget is spent on what does not divide, is too large for a chip or for a step."""
    mesh = load_mesh(write_mesh(tmp_path, ("chips: 8", "chips: 64"), ("replica: 2", "replica: 16")))
    request = SearchRequest("tiny", TIED, mesh, SETTINGS, budget=0, batch=4)
    results = search(request, None)
    shown = " ".join(line for result in results.values() for line in result_lines(result))
    assert "sequences, an optimiser step 4 (--batch)" in shown
    assert "refused, such as: mlp 96 does not divide over" in shown
    assert all(result.rows == [] for result in results.values())
    small = load_mesh(write_mesh(tmp_path, ("16e9", "1e5")))
    automatic = settings_of(**{**SIZES, "slots": None}, measure=False)
    results = search(SearchRequest("tiny", TIED, small, automatic, budget=0), None)
    assert any("no room for a row of 128 tokens" in text for text in results["generate"].refused)
    assert any("GB a chip do not fit" in text for text in results["train"].refused)


def test_the_report_counts_what_compiling_refused():
    row = {"table": "wide", "status": "ok", "fits": False, "peak_bytes": 20e9}
    failed = {"table": "odd", "status": "failed", "reason": "no compiler"}
    lines = list(result_lines(PhaseSearch("train", proposed=2, rows=[row, failed])))
    assert lines == [
        "train: 2 tables, 2 compiled, 2 refused, 0 slower at best, 0 not tried (--budget)",
        "  no table fits",
        "  1 refused: wide needs 20.0 GB a chip, more than there is",
        "  1 refused: odd no compiler",
    ]


@pytest.mark.slow
def test_the_command_writes_a_mesh_file_and_goes_on_where_it_stopped(tmp_path):
    rows, winner = tmp_path / "rows.json", tmp_path / "best.yaml"
    options = [f"--{name}={value}" for name, value in SIZES.items()]
    command = ["sweep-sharding", "--search=mini:student", "--mesh=cpu-8", *options, "--budget=2"]
    command += ["--batch=4"]  # passes of eight sequences are refused
    result = CliRunner().invoke(app, [*command, f"--json={rows}", f"--out={winner}"])
    assert result.exit_code == 0, result.output
    mesh, content = load_mesh(winner), json.loads(rows.read_text())
    _, cfg = find_model("mini:student")
    hashes = {(row["phase"], row["table"]): row["rules_hash"] for row in content["rows"]}
    for kind, phase in (("generate", mesh.generate), ("train", mesh.train)):
        best = content["search"][kind]["ranked"][0]
        assert phase.for_model(cfg).hash == hashes[PROGRAM[kind], best]
        assert f"# {kind}: best: {best}" in winner.read_text()
        counted = content["search"][kind]
        compiled = sum(row["phase"] == PROGRAM[kind] for row in content["rows"])
        others = counted["cannot_beat"] + counted["over_budget"] + sum(counted["refused"].values())
        assert counted["proposed"] == compiled + others  # no compiled one is refused here
        assert f"{kind}: {counted['proposed']} tables, {compiled} compiled, " in result.output
    assert content["search"]["train"]["refused"]
    assert "refused, such as" in result.output
    # the rows are there: nothing is compiled a second time, and no file is written over
    again = CliRunner().invoke(app, [*command, f"--json={rows}", f"--out={winner}"])
    assert "best.yaml is there already; name another file with --out" in str(again.exception)
    other = tmp_path / "other.yaml"
    again = CliRunner().invoke(app, [*command, f"--json={rows}", f"--out={other}"])
    assert again.exit_code == 0 and json.loads(rows.read_text())["rows"] == content["rows"]
    assert load_mesh(other).train == mesh.train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search=x"], "--search x needs one mesh: --mesh v5e-16"),
        (["--search=x", "--meshes=v5e-8,v5e-16"], "--search x needs one mesh"),
        (["--search=x", "--mesh=v5e-8", "--models=y"], "leave out --models, --rules and --phases"),
        (["--search=x", "--mesh=v5e-8", "--phases=decode"], "leave out --models, --rules"),
        (
            ["--models=x", "--mesh=v5e-8", "--phases=decoder"],
            "no phase 'decoder'; did you mean decode?",
        ),
        (
            ["--models=x", "--mesh=v5e-8", "--profile=t"],
            "--profile traces what is timed: give --measure",
        ),
        (["--models=x", "--mesh=v5e-8", "--phases=,"], "--phases names none"),
        (
            ["--compare", "a.json", "b.json", "--phases=train", "--measure", "--profile=t"],
            "--compare reads two files; leave out --phases, --profile",
        ),
    ],
)
def test_options_that_do_not_go_together(options, message):
    result = CliRunner().invoke(app, ["sweep-sharding", *options])
    assert message in str(result.exception)


@pytest.mark.slow
def test_nothing_that_fits_is_exit_code_2_and_no_file(tmp_path):
    mesh, winner = write_mesh(tmp_path, ("16e9", "1e5")), tmp_path / "best.yaml"
    command = ["sweep-sharding", "--search=mini:student", f"--mesh={mesh}", f"--out={winner}"]
    result = CliRunner().invoke(app, [*command, "--length=64", "--context=128"])
    assert result.exit_code == 2 and not winner.exists()
    assert "generate: " in result.output and "no table fits" in result.output
