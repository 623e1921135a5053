"""What a compiler gave for chips that are not here is kept, and read for the same program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from thinksafe_jax.planning import compiler
from thinksafe_jax.planning.abstract_programs import Program
from thinksafe_jax.planning.collectives import collectives_of
from thinksafe_jax.planning.compiler import compile_program, compiler_output, hlo_written_to


class Chip:
    """A simulated device in the place of a TPU's."""

    platform, device_kind = "tpu", "TPU v5 lite"


class OnChips(Program):
    """A program whose devices say that they are TPUs."""

    device = Chip


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Programs that were given to the compiler, one after the other."""
    given = []

    def compile_lowered(lowered):
        given.append(lowered.as_text())
        return lowered.compile()

    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "_compiled_elsewhere", compile_lowered)
    monkeypatch.setattr(compiler, "_coordinates", lambda device: [device.id])
    return given


def doubled(size=8, devices=2):
    """x -> 2 x, the sum over the devices."""
    mesh = jax.make_mesh((devices,), ("x",), devices=jax.devices()[:devices])
    array = jax.ShapeDtypeStruct((size,), jnp.float32, sharding=NamedSharding(mesh, P("x")))
    return OnChips(jax.jit(lambda x: 2 * x.sum()), (array,), {}, size, size, devices)


def test_the_same_program_is_compiled_once(compiled, caplog, tmp_path):
    caplog.set_level("INFO", "thinksafe_jax")
    first = compiler_output(doubled())
    assert "all-reduce" in first.text
    assert compiler_output(doubled()) == first
    assert len(compiled) == 1
    (said,) = caplog.messages
    assert said.startswith(f"compiling a program for {Chip.device_kind}, up to minutes; kept in")
    assert said.endswith(str(tmp_path / "compiled"))


@pytest.mark.parametrize("change", [{"size": 16}, {"devices": 4}])
def test_another_program_or_other_chips_are_compiled(compiled, change):
    compiler_output(doubled())
    compiler_output(doubled(**change))
    assert len(compiled) == 2


def test_other_flags_of_the_compiler_are_another_program(compiled, monkeypatch):
    compiler_output(doubled())
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    compiler_output(doubled())
    assert len(compiled) == 2


def test_a_torn_file_is_compiled_again(compiled, tmp_path):
    first = compiler_output(doubled())
    (file,) = tmp_path.rglob("*.json.gz")
    file.write_bytes(file.read_bytes()[:50])
    again = compiler_output(doubled())
    # the text names the lines of this test that asked for it
    assert dataclasses.replace(again, seconds=first.seconds, text=first.text) == first
    assert len(compiled) == 2
    assert compiler_output(doubled()) == again  # and is whole now


def test_no_place_on_the_disk_is_no_fault(compiled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "file"))
    assert compiler_output(doubled()).argument_bytes == 16


def test_what_is_compiled_for_devices_that_are_here_is_left_to_jax(compiled, tmp_path):
    program = doubled()
    here = Program(program.function, program.arguments, {}, rows=8, tokens=8, devices=2)
    assert "all-reduce" in compiler_output(here).text
    assert not list(tmp_path.iterdir())
    assert not compiled


def test_texts_of_programs_are_written_where_it_is_asked_for(compiled, tmp_path):
    """Also of what is kept; a second program of a name gets a number."""
    folder = tmp_path / "hlo"
    for name in ("train-step-org/model-v5e-8", "unasked"):
        compile_program(lambda dtype: doubled(), "float32", name)
    with hlo_written_to(folder) as texts:
        for size in (8, 16):
            compile_program(lambda dtype, n=size: doubled(n), "float32", "train-org/model-v5e-8")
    compile_program(lambda dtype: doubled(), "float32", "after")
    names = ["train-org-model-v5e-8.hlo.txt", "train-org-model-v5e-8-2.hlo.txt"]
    assert [file.name for file in texts.files] == names
    assert sorted(folder.iterdir()) == sorted(texts.files)
    first, second = (file.read_text() for file in texts.files)
    assert first == compiler_output(doubled()).text != second
    assert len(compiled) == 2


def test_machine_code_that_nobody_runs_is_not_optimised_and_no_figure_differs():
    program = doubled()
    here = Program(program.function, program.arguments, {}, rows=8, tokens=8, devices=2)
    output = compiler_output(here)
    optimised = here.function.lower(*here.arguments).compile(
        compiler_options={"xla_backend_optimization_level": 3}
    )
    memory = optimised.memory_analysis()
    assert output.temporary_bytes == memory.temp_size_in_bytes > 0
    assert output.argument_bytes == memory.argument_size_in_bytes
    assert collectives_of(output.text) == collectives_of(optimised.as_text())


@pytest.mark.parametrize("platform, level", [("cpu", 0), ("gpu", None)])
def test_only_the_compiler_of_simulated_devices_is_told_not_to_optimise(platform, level):
    """A GPU's program is the one that is timed and trained with."""
    given = []

    class Lowered:
        def compile(self, compiler_options):
            given.append(compiler_options)
            return jax.jit(jnp.sin).lower(1.0).compile()

    class Function:
        def lower(self, *arguments):
            return Lowered()

    class OnDevice(Program):
        device = type("Device", (), {"platform": platform, "device_kind": platform})

    compiler_output(OnDevice(Function(), (), {}, rows=1, tokens=1, devices=1))
    assert given == [None if level is None else {"xla_backend_optimization_level": level}]
