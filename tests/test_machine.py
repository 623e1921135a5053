"""The compile cache, where it is and what is kept in it; the compiler's flags."""

import jax
import pytest

from thinksafe_jax.machine import (
    cache_folder,
    compile_cache_folder,
    compiler_flags,
    enable_compile_cache,
    free_memory,
    tpu_compiler_flags,
)

KEY = "jax_persistent_cache_min_compile_time_secs"


@pytest.mark.parametrize(("variable", "kept"), [("0", 7.0), (None, 0.5)], ids=["JAX's own", "ours"])
def test_jaxs_own_variable_says_what_is_kept(monkeypatch, variable, kept):
    before = jax.config.values[KEY], jax.config.values["jax_compilation_cache_dir"]
    jax.config.update(KEY, 7.0)  # as JAX would have it from the variable
    monkeypatch.delenv(KEY.upper())
    if variable is not None:
        monkeypatch.setenv(KEY.upper(), variable)
    try:
        enable_compile_cache()
        assert jax.config.values[KEY] == kept
    finally:
        jax.config.update(KEY, before[0])
        jax.config.update("jax_compilation_cache_dir", before[1])


def test_there_is_one_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("THINKSAFE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "thinksafe"
    assert compile_cache_folder() == tmp_path / "thinksafe/jax"
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "mine"))
    assert compile_cache_folder() == tmp_path / "mine/jax"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("THINKSAFE_CACHE", "~/mine")  # as a file of variables has it
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert str(compile_cache_folder()) == "elsewhere"


def test_flags_that_change_a_program_are_the_same_whatever_their_order(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "  --xla_b=1 --xla_a=2  --xla_b=3 ")
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_dump_to=/tmp/mine --xla_force_host_platform_device_count=8"
    )
    assert compiler_flags() == {"LIBTPU_INIT_ARGS": "--xla_a=2 --xla_b=3"}
    assert tpu_compiler_flags() == ["--xla_a=2", "--xla_b=3"]
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    assert compiler_flags() == {} and tpu_compiler_flags() == []


CGROUPS = {
    "2": ("memory.max", "memory.current", "memory.stat"),
    "1": (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ),
}


@pytest.mark.parametrize("names", CGROUPS.values(), ids=CGROUPS)
def test_of_a_containers_memory_is_free_what_its_limit_leaves(monkeypatch, tmp_path, names):
    monkeypatch.setattr("thinksafe_jax.machine._CGROUP", tmp_path)
    of_machine = free_memory()
    assert of_machine is not None and of_machine > 5000
    (tmp_path / names[0]).parent.mkdir(exist_ok=True)

    def free(*texts):
        for name, text in zip(names, texts, strict=True):
            (tmp_path / name).write_text(text)
        return free_memory()

    assert free("9000\n", "6000\n", "anon 4000\ninactive_file 500\n") == 3500
    assert free("9000\n", "9900\n", "anon 9900\n") == 0
    for none in ("max\n", f"{2**63 - 4096}\n"):  # as without a limit, in 2 and in 1
        assert (free(none, "6000\n", "anon 4000\n") or 0) > 5000
