"""A model in the memory of the hosts: there and back, on a mesh and on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from thinksafe_jax.sharding import in_device_memory, in_host_memory


def shardings():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    yield SingleDeviceSharding(jax.devices()[3])
    yield NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    yield NamedSharding(mesh, PartitionSpec(None, "tensor"))


@pytest.mark.parametrize("number", range(3))
def test_arrays_come_back_as_they_were(number):
    sharding = list(shardings())[number]
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    there = in_host_memory({"a": jax.device_put(values, sharding)})["a"]
    assert there.sharding.memory_kind == "pinned_host"
    back = in_device_memory({"a": there})["a"]
    assert back.sharding.memory_kind == jax.devices()[0].default_memory().kind
    assert back.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(back, values)


def test_what_is_on_the_devices_is_not_copied():
    array = jnp.ones(3)
    assert in_device_memory(array) is array
