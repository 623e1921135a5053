"""Devices that programs are compiled for: a program of one host gets that host's block of chips."""

import itertools
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from tests.support import REPOSITORY, tiny_config
from tests.training import kit
from thinksafe_jax.config import load_recipe
from thinksafe_jax.planning import devices, settings_of
from thinksafe_jax.planning.abstract_programs import (
    Sampler,
    decode_program,
    guard_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.planning.compiler import compile_program
from thinksafe_jax.planning.devices import compile_devices, torus
from thinksafe_jax.planning.recipe_plan import plan_recipe
from thinksafe_jax.planning.sweep import combinations_of, sweep
from thinksafe_jax.sharding import ModelMesh, flags_of_device, load_mesh

TPU_MESHES = ("v5e-8", "v5e-16", "v5e-256", "v5p-8", "v5p-128", "v6e-8", "v6e-64")
SEVERAL_SLICES = ("v5e-256x2", "v6e-256x4")
needs_libtpu = pytest.mark.skipif(
    find_spec("libtpu") is None, reason="needs libtpu, the TPU's own compiler"
)
CFG = tiny_config(vocab_size=2048, num_heads=8)


@dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU device."""

    id: int
    process_index: int
    coords: tuple[int, ...]
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0
    slice_index: int = 0


@dataclass(frozen=True)
class Slice:
    devices: list[Chip]


def tpu_slice(platform, topology_name, chips_per_host_bounds, num_slices=1):
    """Slices as libtpu describes them: numbered along x, then y, then z; listed host by host.

    Several begin at 100,000, 200,000 ...; their hosts are numbered on.
    """
    family, _, shape = topology_name.partition(":")
    sides = (*map(int, shape.split("x")), 1)[:3]
    kind = {"v5e": "TPU v5 lite", "v6e": "TPU v6 lite", "v5p": "TPU v5"}[family]
    hosts = [side // bound for side, bound in zip(sides, chips_per_host_bounds, strict=True)]
    chips = []
    numbered = list(enumerate(itertools.product(*(range(n) for n in reversed(sides)))))
    for part, (number, backwards) in itertools.product(range(num_slices), numbered):
        x, y, z = coords = backwards[::-1]
        a, b, c = (n // bound for n, bound in zip(coords, chips_per_host_bounds, strict=True))
        host = a + hosts[0] * (b + hosts[1] * c)
        first = 100_000 * (part + 1) if num_slices > 1 else 0
        host += part * math.prod(hosts)
        chips.append(Chip(first + number, host, (x, y, z), kind, slice_index=part))
    return Slice(sorted(chips, key=lambda chip: (chip.process_index, chip.id)))


@pytest.fixture
def described(monkeypatch):
    """As if libtpu were installed: its slices, which nothing can be compiled for."""
    from jax.experimental import topologies

    monkeypatch.setattr(topologies, "get_topology_desc", tpu_slice)
    monkeypatch.setattr(devices, "has_compiler", lambda topology: True)
    for name in devices._NO_TPU_HERE:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    devices._slices.cache_clear()
    yield
    devices._slices.cache_clear()


@pytest.mark.parametrize("name", TPU_MESHES)
def test_a_program_of_one_host_gets_the_block_of_chips_that_the_host_has(name, described):
    topology = load_mesh(name).topology
    whole = compile_devices(topology)
    assert len(whole) == topology.chips
    assert len({chip.process_index for chip in whole}) == topology.hosts
    block = sorted(chip.coords for chip in whole if chip.process_index == 0)
    part = compile_devices(topology, topology.chips_per_host)
    assert sorted(chip.coords for chip in part) == block
    # the compiler of a program on n devices knows the numbers below n, and no others
    assert sorted(chip.id for chip in part) == list(range(topology.chips_per_host))


@pytest.mark.parametrize("name", SEVERAL_SLICES)
def test_a_mesh_of_several_slices_has_the_chips_of_each(name, described):
    mesh = load_mesh(name)
    topology = mesh.topology
    whole = compile_devices(topology)
    assert len(whole) == topology.chips
    assert {chip.slice_index for chip in whole} == set(range(topology.slices))
    placed = ModelMesh.of_phase(mesh.train, CFG, whole).mesh
    index = placed.axis_names.index("data")
    per_slice = mesh.train.axes["data"] // topology.slices
    for data, chips in enumerate(np.moveaxis(placed.devices, index, 0)):
        assert {chip.slice_index for chip in chips.flat} == {data // per_slice}
    # a program of one host knows nothing of slices
    part = compile_devices(topology, topology.chips_per_host)
    assert sorted(chip.id for chip in part) == list(range(topology.chips_per_host))


@pytest.mark.parametrize("name", TPU_MESHES)
def test_every_phase_of_a_shipped_mesh_is_laid_on_the_chips(name, described):
    """Also fsdp 16 x tensor 4 on 8 x 8 chips, where no side of the torus is 4 or 16 long."""
    mesh = load_mesh(name)
    of_host = mesh.generate.of_host(mesh.topology.hosts)
    replica = mesh.generate.for_model(CFG).of_replica()
    for phase, part in ((mesh.train, None), (of_host, of_host), (replica, replica)):
        chips = compile_devices(mesh.topology, part and part.devices)
        placed = ModelMesh.of_phase(phase, CFG, chips).mesh.devices.flat
        assert {chip.id for chip in placed} == set(range(phase.devices))


def test_a_part_of_a_simulated_mesh_is_its_first_devices():
    topology = load_mesh("cpu-8").topology
    assert [d.id for d in compile_devices(topology, 4)] == [0, 1, 2, 3]


def test_the_usual_shapes_of_a_pod():
    assert [torus(n, 2) for n in (4, 8, 16, 64, 256)] == ["2x2", "2x4", "4x4", "8x8", "16x16"]
    assert [torus(n, 3) for n in (1, 4, 8, 64)] == ["1x1x1", "2x2x1", "2x2x2", "4x4x4"]
    # no powers of two: 3 hosts, and what a v5p has of 3, 12 and 96 cubes of 64 chips
    shapes = {12: "2x2x3", 192: "4x4x12", 768: "8x8x12", 6144: "16x16x24"}
    assert {n: torus(n, 3) for n in shapes} == shapes


@needs_libtpu
def test_the_compiler_says_nothing_of_the_tpu_that_is_not_here():
    code = (
        "from thinksafe_jax.planning.devices import compile_devices\n"
        "from thinksafe_jax.sharding import flags_of_device, load_mesh\n"
        "print(len(compile_devices(load_mesh('v5e-16').topology)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TPU_")}
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("16\n", "")


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["v5e-8", "v5p-8", "v6e-8"])
def test_the_compiler_knows_every_flag_of_a_chips_preset(mesh):
    """It ends at once at a flag that it does not know, and refuses some on other chips."""
    code = (
        "import jax, jax.numpy as jnp, sys\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec\n"
        "from thinksafe_jax.planning.devices import compile_devices\n"
        "from thinksafe_jax.sharding import flags_of_device, load_mesh\n"
        "import numpy as np\n"
        "mesh = Mesh(np.array(compile_devices(load_mesh(sys.argv[1]).topology)), ('x',))\n"
        "rows = NamedSharding(mesh, PartitionSpec('x'))\n"
        "x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=rows)\n"
        "print(jax.jit(lambda x: x.T @ x).lower(x).compile().as_text().count('all-reduce'))"
    )
    flags = flags_of_device(load_mesh(mesh).topology.chip)
    environment = {**os.environ, "LIBTPU_INIT_ARGS": " ".join(flags)}
    run = [sys.executable, "-c", code, mesh]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert flags and int(done.stdout) > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-16", "v5p-8", "v6e-8"])
def test_every_program_of_a_run_is_compiled_by_the_compiler_of_the_chips(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path))
    mesh = load_mesh(name)
    topology, generate = mesh.topology, mesh.generate.for_model(CFG)
    of_host, replica = generate.of_host(topology.hosts), generate.of_replica()
    sampler = Sampler(slots=8, pool_tokens=2048, longest=512, prompt=64)
    config = kit.settings(max_length=256, micro_batch_size=1)
    on_replica = compile_devices(topology, replica.devices)
    on_host = compile_devices(topology, of_host.devices)
    builds = {
        "decode": partial(decode_program, CFG, generate, on_replica, sampler),
        "prefill": partial(prefill_program, CFG, generate, on_replica, sampler),
        "guard": partial(guard_program, CFG, of_host, on_host, 1, 256),
        "train": partial(train_program, CFG, mesh.train, compile_devices(topology), config),
    }
    for program, build in builds.items():
        compiled = compile_program(build, "bfloat16", program)
        assert compiled.compiler.startswith("TPU v")
        assert 0 < compiled.arguments <= compiled.peak < topology.hbm_bytes
        assert "all-reduce" in compiled.collectives
        again = compile_program(build, "bfloat16", program)
        assert again == compiled  # as it is kept, time and all
    assert len(list(tmp_path.rglob("*.json.gz"))) == len(builds)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-16", "v5p-8", "v6e-8"])
def test_plan_and_sweep_take_the_compiler_of_the_chips(name, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path))
    mesh = load_mesh(name)
    # the mini guard's three heads do not lie on four chips: its student stands for a guard
    changes = ["student.dtype=bfloat16", "guard.dtype=bfloat16", "guard.model=mini:student"]
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [*changes, "engine.slots=8"])
    _, *compiled = plan_recipe(recipe, mesh).stages
    assert [stage.name for stage in compiled] == ["sample", "guard", "train"]
    for stage in compiled:
        assert stage.fits(mesh) and stage.compiler.startswith("TPU v")
        assert stage.bytes["activations"] > 0 and stage.traffic["all-reduce"].count > 0
    settings = settings_of(
        prompt=64, slots=8, length=256, rows=8, context=512, dtype="bfloat16", measure=False
    )
    phases = ("decode", "prefill", "train")
    own = [("own", lambda mesh: mesh)]
    rows = sweep(list(combinations_of([("tiny", CFG)], [mesh], own, phases)), settings, None)
    assert [(row["phase"], row["status"]) for row in rows] == [(phase, "ok") for phase in phases]
    for row in rows:
        assert row["compiler"].startswith("TPU v") and row["temporary_bytes"] > 0
