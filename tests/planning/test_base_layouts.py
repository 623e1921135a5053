"""What training and its sampler share of the base, by arithmetic and by the arrays themselves."""

import dataclasses

import jax
import pytest

from tests.support import tiny_config
from thinksafe_jax.models import LoraConfig, init_adapter, init_params, unstack_layers
from thinksafe_jax.planning.base_layouts import base_layouts
from thinksafe_jax.sampling.held_params import held_params
from thinksafe_jax.sharding import MeshConfig, ModelMesh, Topology, load_mesh, on_devices

CFG = tiny_config(vocab_size=208)
LORA = LoraConfig(r=4)
MESHES = [
    ({"data": 1, "fsdp": 4, "tensor": 2}, {"replica": 2, "tensor": 4}),
    ({"data": 8, "fsdp": 1, "tensor": 1}, {"replica": 8, "tensor": 1}),
    ({"data": 4, "fsdp": 1, "tensor": 2}, {"replica": 4, "tensor": 2}),
    ({"data": 1, "fsdp": 8, "tensor": 1}, {"replica": 8, "tensor": 1}),
]


def mesh_of(train, generate, dcn=None):
    shipped = load_mesh("cpu-8")
    topology = Topology("CPU", 8, 1, interconnect_bandwidth=2e6)
    lies = dataclasses.replace(shipped.train.with_axes(train), dcn=dcn or {})
    return MeshConfig("test", topology, lies, shipped.generate.with_axes(generate))


def buffers(tree, device):
    """Buffer -> bytes of what a device has of a tree."""
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return {s.data.unsafe_buffer_pointer(): s.data.nbytes for s in shards if s.device == device}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "generate", "dcn"),
    [
        *((*mesh, {}) for mesh in MESHES),
        # two slices: devices 0 to 3 have the first two parts of fsdp, for both parts of data
        ({"data": 2, "fsdp": 4, "tensor": 1}, {"replica": 2, "tensor": 4}, {"fsdp": 2}),
    ],
)
def test_bytes_are_those_of_the_arrays(train, generate, dcn):
    mesh = mesh_of(train, generate, dcn)
    where_trained = ModelMesh.of_phase(mesh.train, CFG)
    base = unstack_layers(init_params(CFG, jax.random.key(0)))
    base = on_devices(base, where_trained.shardings_like(base))
    sampler = held_params(base, ModelMesh.for_generation(mesh, CFG))
    ours, its = (buffers(tree, jax.devices()[0]) for tree in (base, sampler))
    layouts = base_layouts(CFG, mesh, LORA, "float32")
    assert layouts.shared == sum(size for buffer, size in its.items() if buffer in ours)
    assert layouts.moved == sum(size for buffer, size in its.items() if buffer not in ours)
    assert 0 <= layouts.received <= layouts.moved
    assert layouts.seconds == pytest.approx(layouts.received / 1e6)
    adapter = init_adapter(CFG, LORA, jax.random.key(0))
    assert layouts.adapter_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(adapter))


def test_what_is_received_can_be_counted_by_hand():
    """fsdp 8 to eight whole copies: seven eighths of what is cut, and nothing of the norms."""
    layouts = base_layouts(CFG, mesh_of(*MESHES[3]), LORA, "float32")
    assert layouts.received == layouts.moved * 7 / 8
    assert "there twice" in str(layouts) and "received in" in str(layouts)
    assert str(base_layouts(CFG, mesh_of(*MESHES[1]), LORA)).startswith("the whole base can be ")


def test_on_a_tpu_the_sampler_has_its_own_output_projections():
    """They are stored heads first there; nothing of them comes from another device."""
    mesh = mesh_of(*MESHES[1])
    tpu = dataclasses.replace(mesh, topology=dataclasses.replace(mesh.topology, chip="TPU v5e"))
    layouts = base_layouts(CFG, tpu, LORA, "float32")
    kernel = CFG.hidden_size * CFG.num_heads * CFG.head_dim
    assert (layouts.moved, layouts.received) == (4 * CFG.num_layers * kernel, 0)
