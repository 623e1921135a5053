"""The machine at hand as a mesh of one device: where a run without a mesh works."""

import os

import jax
import jax.numpy as jnp

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.machine import host_memory
from thinksafe_jax.models import abstract_params
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.sharding import LOGICAL_AXES, MeshConfig, Phase, Topology, device_topology

_SHARES = 8  # configs/chips/cpu.yaml is a core with an eighth of a small machine's memory bandwidth
_MISSING = "the recipe names no mesh; give --mesh, or set its key `mesh`"


def this_machine(recipe: Recipe) -> MeshConfig:
    """The processor as one device, with nominal rates for its cores and the memory it has.

    Raises:
        ConfigError: JAX computes on an accelerator here, of which a mesh says how many there are;
            or the student's weights are larger than the memory, so another machine is meant.
    """
    topology = device_topology("cpu")
    if jax.default_backend() != "cpu" or topology is None:
        raise ConfigError(_MISSING)
    memory = host_memory()
    name, cfg = find_model(recipe.student.model)
    params = abstract_params(cfg, jnp.dtype(recipe.student.dtype))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if size > memory:
        raise ConfigError(
            f"{_MISSING}: {name} has {size / 1e9:,.1f} GB of weights, this machine "
            f"{memory / 1e9:,.1f} GB of memory"
        )
    cores = os.cpu_count() or 1
    phase = Phase(
        axes={"replica": 1},
        rules={**dict.fromkeys(LOGICAL_AXES, ()), "batch": ("replica",)},
    )
    return MeshConfig(
        "this-cpu",
        Topology(
            chip=f"CPU (nominal rates of {cores} cores)",
            chips=1,
            hosts=1,
            hbm_bytes=memory,
            peak_flops=cores * topology.peak_flops,
            hbm_bandwidth=_SHARES * topology.hbm_bandwidth,
            interconnect_bandwidth=topology.interconnect_bandwidth,
        ),
        phase,
        phase,
    )
