"""What hosts compare of their software."""

from thinksafe_jax.hosts import compiler_flags


def test_flags_that_change_a_program_are_compared_whatever_their_order(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "  --xla_b=1 --xla_a=2 ")
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_dump_to=/tmp/mine --xla_force_host_platform_device_count=8"
    )
    assert compiler_flags() == {"LIBTPU_INIT_ARGS": "--xla_a=2 --xla_b=1"}
