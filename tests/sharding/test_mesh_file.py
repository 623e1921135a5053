"""Mesh files: what is shipped, and that a wrong file fails at once with every mistake named."""

import math

import pytest

from tests.sharding.kit import BIASED, MESHES, NAMES, TIED, write_mesh
from tests.support import REPOSITORY
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import declare, walk
from thinksafe_jax.sharding import load_mesh, load_rules, sharding_problems, sharding_warnings
from thinksafe_jax.sharding.rules import LOGICAL_AXES

SHIPPED = {f"v5e-{n}" for n in (8, 16, 256)} | {"v6e-8", "v6e-64", "v5p-8", "v5p-128"}
SHIPPED |= {"h100-8", "h200-1", "cpu-8", "cpu-4x2", "v5e-256x2", "v6e-256x4", "v5e-16-long"}


def message(path) -> str:
    with pytest.raises(ConfigError) as raised:
        load_mesh(path)
    return str(raised.value)


def test_every_promised_mesh_is_shipped():
    assert set(NAMES) == SHIPPED


@pytest.mark.parametrize("path", MESHES, ids=NAMES)
def test_shipped_files_load_begin_with_their_command_and_shard_as_their_comments_say(path):
    mesh = load_mesh(path)
    assert path.read_text().startswith("# thinksafe plan --model ")
    assert path.read_text().splitlines()[0].endswith(f" --mesh {path.stem}")
    # chips of TPU v5p are counted as TensorCores in its names, two a chip
    sizes = [int(size) for size in path.stem.split("-")[1].split("x")]  # of a slice; slices
    assert mesh.topology.chips == math.prod(sizes) // (2 if "v5p" in path.stem else 1)
    assert mesh.topology.slices == math.prod(sizes[1:])
    # a replica stays on its host, and generation has no FSDP
    replica = mesh.topology.chips // mesh.generate.axes["replica"]
    assert replica <= mesh.topology.chips // mesh.topology.hosts
    assert mesh.generate.rules["embed"] == ()
    # weights of training are cut over all chips that hold the same ones otherwise
    assert mesh.train.rules["embed"] == ("fsdp", *mesh.train.rules["sequence"])


@pytest.mark.parametrize("path", MESHES, ids=NAMES)
def test_shrunk_meshes_keep_their_axes_and_fit_on_eight_devices(path):
    mesh, small = load_mesh(path), load_mesh(path).shrink(8)
    for before, after in ((mesh.train, small.train), (mesh.generate, small.generate)):
        assert list(after.axes) == list(before.axes)
        assert math.prod(after.axes.values()) == min(8, mesh.topology.chips)
        assert after.slices == small.topology.slices == 1
        assert after.rules == before.rules
        trains = after is small.train
        assert not sharding_problems(TIED, after.for_model(TIED), cuts_sequences=trains)


def test_a_name_and_a_file_are_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # names are found from anywhere
    assert load_mesh("v5e-8") == load_mesh(next(p for p in MESHES if p.stem == "v5e-8"))


def test_the_users_own_file_is_enough(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path))
    assert mesh.name == "mine"
    assert mesh.topology.hbm_bytes == 16e9
    assert mesh.generate.for_model(TIED).axes == {"replica": 2, "kv": 2, "group": 2}


def test_a_split_axis_gives_the_kv_heads_what_they_can_use(tmp_path):
    phase = load_mesh(write_mesh(tmp_path)).generate
    for tensor, kv, group in ((1, 1, 1), (2, 2, 1), (4, 2, 2), (8, 2, 4)):
        strategy = phase.with_axes({"replica": 1, "tensor": tensor}).for_model(TIED)
        assert strategy.axes == {"replica": 1, "kv": kv, "group": group}
        assert strategy.rules["heads"] == ("kv", "group")
        assert strategy.rules["kv_heads"] == ("kv",)


def test_every_declared_axis_has_a_name_that_rules_can_use():
    used = {
        axis for cfg in (TIED, BIASED) for _, param in walk(declare(cfg)) for axis in param.axes
    }
    assert used <= set(LOGICAL_AXES)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("topology:", "name: mine\ntopology:"), "name: unknown key; a mesh is called as its file"),
        (
            ("chips: 8", "chips: 1000000000000"),
            "topology.chips: is 1000000000000; expected at most",
        ),
        (("tensor: 4", "tensor: 9000000000"), "train.axes.tensor: is 9000000000; expected at most"),
        (
            ("tensor: 4}", "tensor: 4, a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1}"),
            "9 axes; expected",
        ),
        (("hosts: 1", "host: 1"), "topology.host: unknown key; did you mean topology.hosts?"),
        (("  hosts: 1\n", ""), "topology.hosts: no value given"),
        (("chips: 8", "chips: eight"), "topology.chips: 'eight' is text; expected a whole number"),
        (("chips: 8", "chips: 16"), "train.axes: replica 2 x tensor 4 = 8; topology.chips is 16"),
        (("hosts: 1", "hosts: 3"), "topology.chips: 8 is no multiple of hosts 3"),
        (("16e9", "-1"), "topology.hbm_bytes: is -1.0; expected a number > 0"),
        (("tensor: 4", "tensor: 4.5"), "train.axes.tensor: is 4.5; expected a whole number >= 1"),
        (
            ("mlp: tensor", "mpl: tensor"),
            "train.rules.mpl: unknown logical axis; did you mean mlp?",
        ),
        (("    mlp: tensor\n", ""), "train.rules.mlp: no rule given; write `mlp: null`"),
        (
            ("mlp: tensor", "mlp: tensr"),
            "train.rules.mlp: unknown mesh axis tensr; did you mean te",
        ),
        (("mlp: tensor", "mlp: 3"), "train.rules.mlp: is 3; expected an axis, a list or null"),
        (("mlp: tensor", "mlp: [kv, kv]"), "train.rules.mlp: names a mesh axis twice"),
        (("mlp: tensor", "mlp: [kv, tensor]"), "train.rules.mlp: names a mesh axis twice"),
        (("batch: replica", "batch: null"), "train.axes.replica: no rule uses it, so 2 devices"),
        (("[kv, group]", "kv"), "train.split.tensor: is 'kv'; expected two names"),
        (("[kv, group]", "[kv, replica]"), "train.split.tensor: replica is already an axis"),
        (("{tensor: [", "{tensors: ["), "train.split.tensors: no such axis"),
        (("  split:", "  splits:"), "train.splits: unknown key; did you mean train.split?"),
        (("generate: *phase", ""), "generate: is missing; expected a section"),
        (("generate: *phase", "generate: 5"), "generate: is missing; expected a section"),
        (("generate: *phase", "generate: {axes: 5}"), "generate.axes: is 5; expected lines of"),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)
def test_a_mistake_is_named_with_its_key_and_its_fix(tmp_path, change, expected):
    assert expected in message(write_mesh(tmp_path, change))


TWO_SLICES = (
    ("hosts: 1", "hosts: 2\n  slices: 2\n  dcn_bandwidth: 1e9"),
    ("  split:", "  dcn: {replica: 2}\n  split:"),
)


def test_rows_lie_across_slices(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, *TWO_SLICES))
    assert (mesh.topology.slices, mesh.topology.dcn_bandwidth) == (2, 1e9)
    assert mesh.train.dcn == {"replica": 2} and mesh.train.slices == 2
    assert mesh.generate.of_host(2).axes == {"replica": 1, "tensor": 4}
    assert mesh.generate.of_host(2).slices == mesh.generate.for_model(TIED).of_replica().slices == 1
    assert mesh.train.for_model(TIED).hash != load_mesh("cpu-8").train.for_model(TIED).hash


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("replica: 2}\n  split", "tensor: 2}\n  split"),
         "train.rules.heads: tensor lies across slices, and heads would send activations over the "
         "data-centre network in every layer; batch and embed may cross it"),
        (("  dcn: {replica: 2}\n", ""),
         "train.dcn: none = 1; topology.slices is 2; write `dcn: {replica: 2}`"),
        (("  slices: 2\n", ""), "train.dcn: replica 2 = 2; topology.slices is 1; leave it out"),
        (("{replica: 2}\n  split", "{replcia: 2}\n  split"),
         "train.dcn.replcia: no such axis; did you mean replica?"),
        (("{replica: 2}\n  split", "{replica: two}\n  split"), "train.dcn.replica: is 'two'"),
        (("  dcn_bandwidth: 1e9", ""), "topology.dcn_bandwidth: no value given"),
        (("slices: 2", "slices: 4"), "topology.hosts: 2 is no multiple of slices 4"),
        (("replica: 2, tensor: 4}", "replica: 1, tensor: 8}"),
         "train.dcn.replica: replica 1 is no multiple of 2 slices"),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_mistake_about_slices_is_named_with_its_key_and_its_fix(tmp_path, change, expected):
    assert expected in message(write_mesh(tmp_path, *TWO_SLICES, change))


def test_fsdp_may_lie_across_slices_and_is_warned_of(tmp_path):
    change = (("replica: 2, tensor: 4", "fsdp: 2, tensor: 4"), ("embed: null", "embed: fsdp"),
              ("batch: replica", "batch: fsdp"), ("dcn: {replica", "dcn: {fsdp"))  # fmt: skip
    phase = load_mesh(write_mesh(tmp_path, *TWO_SLICES, *change)).train.for_model(TIED)
    assert sharding_problems(TIED, phase) == []
    assert "embed on fsdp lies across slices" in " ".join(sharding_warnings(TIED, phase, 2))
    odd = phase.with_axes({"fsdp": 1, "kv": 2, "group": 4})
    assert "fsdp 1 does not divide over 2 slices" in sharding_problems(TIED, odd)


def test_all_mistakes_come_in_one_message(tmp_path):
    text = message(write_mesh(tmp_path, ("hosts: 1", "host: 1"), ("16e9", "much")))
    assert "mine.yaml: 3 problems" in text
    for key in ("topology.host:", "topology.hosts:", "topology.hbm_bytes:"):
        assert key in text
    text = message(
        write_mesh(tmp_path, ("mlp: tensor", "mpl: tensor"), ("batch: replica", "batch:"))
    )
    for key in ("rules.mpl:", "rules.mlp:", "axes.replica:"):
        assert f"train.{key}" in text
        assert f"generate.{key}" in text


def test_files_that_are_none(tmp_path):
    assert "configs/mesh; did you mean v5e-8?" in message("v5e-9")
    assert "no mesh at" in message(tmp_path / "none.yaml")
    file = tmp_path / "bad.yaml"
    file.write_text("a: [1\n")
    assert str(file) in message(file)
    file.write_text("- a\n")
    assert "is a list; expected sections" in message(file)


def test_an_unknown_key_of_a_rules_file_is_refused(tmp_path):
    """It was passed over, and the table was another than the one that is written there."""
    text = (REPOSITORY / "configs/rules/whole.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("train:\n", "train:\n  dnc: {fsdp: 2}\n"))
    with pytest.raises(ConfigError, match=r"train.dnc: unknown key; did you mean train.dcn\?"):
        load_rules(file)(load_mesh("v5e-16"))
