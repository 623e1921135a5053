"""Chips: the facts of each stand once, and a mesh names its chip."""

import dataclasses
import re

import pytest

from tests.sharding.kit import write_mesh
from tests.support import REPOSITORY
from thinksafe_jax.config import read_yaml
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.planning.devices import _FAMILIES
from thinksafe_jax.sharding import chip_of_device, device_topology, flags_of_device, load_mesh
from thinksafe_jax.sharding.chips import FACTS, with_chip_facts

CHIPS = sorted((REPOSITORY / "configs" / "chips").glob("*.yaml"))
WITHOUT_FACTS = [
    ("  hbm_bytes: 16e9\n", ""),
    ("  peak_flops: 100e12\n", ""),
    ("  hbm_bandwidth: 800e9\n", ""),
    ("  interconnect_bandwidth: 400e9\n", ""),
]


@pytest.mark.parametrize("file", CHIPS, ids=lambda file: file.stem)
def test_every_chip_ships_all_facts_with_their_source(file):
    topology, problems = with_chip_facts({"chip": file.stem})
    assert not problems
    assert all(topology[fact] > 0 for fact in FACTS)
    assert "# Source: " in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", CHIPS, ids=lambda file: file.stem)
def test_every_flag_of_a_preset_has_its_source_above_it(file):
    preset = file.read_text(encoding="utf-8").partition("xla_flags:\n")[2]
    blocks = re.findall(r"((?:  # .*\n)+)((?:  - --xla_\w+=\w+\n)+)", preset)
    assert "".join(comment + flags for comment, flags in blocks) == preset
    assert all("# Source: https://" in comment for comment, _ in blocks)


def test_a_preset_is_known_by_what_jax_calls_the_chip():
    assert flags_of_device("TPU v5 lite") == flags_of_device("TPU v5e") != []
    assert flags_of_device("cpu") == flags_of_device("some other chip") == []


def test_the_chips_that_the_tpu_compiler_is_asked_for_have_facts():
    names = {with_chip_facts({"chip": file.stem})[0]["chip"] for file in CHIPS}
    assert set(_FAMILIES) <= names


def test_every_chip_that_ships_is_known_by_what_jax_calls_it():
    kinds = [read_yaml(file).device_kind for file in CHIPS]
    names = [with_chip_facts({"chip": file.stem})[0]["chip"] for file in CHIPS]
    assert [chip_of_device(kind) for kind in kinds] == names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5e", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU7x", "TPU v7x"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"),
        ("NVIDIA H100 PCIe", None),  # another memory, fewer FLOPs
    ],
)
def test_what_jax_calls_a_chip_is_taken_to_the_letter(kind, name):
    assert chip_of_device(kind) == name


def test_a_broken_file_of_another_chip_is_in_nobodys_way(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "chips"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("name: mine\nhbm_bytes: much\n")
    monkeypatch.chdir(tmp_path)
    stated = write_mesh(tmp_path)
    assert load_mesh(stated).topology.chip == "test chip"
    assert chip_of_device("TPU v5 lite") == "TPU v5e"
    # a chip that is not to be found may be the broken one
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_mesh(write_mesh(tmp_path, ("test chip", "mine"), *WITHOUT_FACTS))


def test_mesh_files_that_ship_leave_facts_to_their_chip():
    for file in (REPOSITORY / "configs" / "mesh").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert not [fact for fact in FACTS if f"  {fact}:" in text], file


@pytest.mark.parametrize("name", ["v5e", "V5E", "TPU v5e"])
def test_a_mesh_names_its_chip_by_file_or_by_the_name_in_it(tmp_path, name):
    mesh = load_mesh(write_mesh(tmp_path, ("test chip", name), *WITHOUT_FACTS))
    assert mesh.topology == load_mesh("v5e-8").topology


def test_a_fact_that_the_mesh_states_comes_before_the_chips(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ("test chip", "v5e"), *WITHOUT_FACTS[1:]))
    wide = load_mesh(write_mesh(tmp_path, ("test chip", "v5e"), ("16e9", "17e9")))
    assert mesh.topology.peak_flops == 197e12
    assert wide.topology == dataclasses.replace(
        load_mesh(write_mesh(tmp_path)).topology, chip="TPU v5e", hbm_bytes=17e9
    )


def test_an_unknown_chip_is_refused_with_the_nearest(tmp_path):
    file = write_mesh(tmp_path, ("test chip", "v5ee"), *WITHOUT_FACTS[1:])
    with pytest.raises(ConfigError) as raised:
        load_mesh(file)
    text = str(raised.value)
    assert "topology.chip: no chip 'v5ee' in configs/chips; did you mean v5e?" in text
    assert "does not state its peak_flops, hbm_bandwidth, interconnect_bandwidth" in text
    assert "problems" not in text  # that the facts are missing is said once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: mine\nhbm_bytes: 1e9\n", "peak_flops: is 0.0; expected a number > 0"),
        ("name: mine\nhbm_byte: 1e9\n", "hbm_byte: unknown key; did you mean hbm_bytes?"),
        ("name: mine\nhbm_bytes: much\n", "hbm_bytes: 'much' is text; expected a number"),
        ("name: mine\nxla_flags: [xla_a=1]\n", "xla_flags: has 'xla_a=1'; expected --xla_NAME"),
    ],
)
def test_a_users_own_chip_is_read_strictly(tmp_path, monkeypatch, text, expected):
    folder = tmp_path / "configs" / "chips"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mine\.yaml") as raised:
        load_mesh(write_mesh(tmp_path, ("test chip", "mine"), *WITHOUT_FACTS))
    assert expected in str(raised.value)


def test_one_device_by_itself_has_the_facts_of_its_chip():
    topology, mesh = device_topology("TPU v5 lite"), load_mesh("v5e-8").topology
    assert topology is not None and (topology.chip, topology.chips) == ("TPU v5e", 1)
    assert topology.peak_flops == mesh.peak_flops
    assert device_topology("abacus") is None
