"""Several slices of devices as one mesh: which axis lies across them, and what crosses."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from tests.sharding.kit import TIED
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.sharding import ModelMesh, Phase, load_mesh, slice_indices
from thinksafe_jax.sharding.shardings import build_mesh


@dataclass(frozen=True)
class Chip:
    id: int
    slice_index: int
    platform: str = "tpu"


def ids(axes: dict[str, int], dcn: dict[str, int]) -> list:
    """Ids of the eight devices as they lie on the mesh."""
    mesh = build_mesh(Phase(axes, dcn=dcn))
    return np.vectorize(lambda device: device.id)(mesh.devices).tolist()


def test_the_outer_part_of_an_axis_lies_across_slices():
    #               slice 0           slice 1
    assert ids({"data": 4, "tensor": 2}, {"data": 2}) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    # also where it is not the outermost: every row of fsdp has both slices
    assert ids({"fsdp": 4, "data": 2}, {"data": 2}) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    # and where several axes do: four slices of two
    parts = ids({"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2})
    assert parts == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_one_slice_is_as_without():
    assert ids({"data": 4, "tensor": 2}, {}) == ids({"data": 4, "tensor": 2}, {"data": 1})


def test_a_replica_and_a_tensor_axis_never_leave_their_slice():
    mesh = ModelMesh.of_phase(load_mesh("cpu-4x2").train, TIED)
    slices = np.reshape(slice_indices(list(mesh.mesh.devices.flat), 2), mesh.mesh.devices.shape)
    data, *others = range(slices.ndim)
    assert mesh.mesh.axis_names[data] == "data"
    assert (slices == np.arange(2).reshape(2, *[1] * len(others))).all()
    generate = ModelMesh.of_phase(load_mesh("cpu-4x2").generate, TIED)
    for replica in generate.replicas():
        assert len(set(slice_indices(list(replica.mesh.devices.flat), 1))) == 1
    first = [replica.mesh.devices.flat[0].id // 4 for replica in generate.replicas()]
    assert first == [0, 0, 1, 1]


def test_tpus_say_their_slice_themselves():
    chips = [Chip(100, 3), Chip(101, 3), Chip(200, 7), Chip(201, 7)]
    assert slice_indices(chips, 2) == [0, 0, 1, 1]
    assert slice_indices(chips[:2], 1) == [0, 0]
    with pytest.raises(ConfigError, match=r"lies on 1 slice\(s\), the 4 devices in 2; topology"):
        slice_indices(chips, 1)


def test_elsewhere_slices_are_equal_parts_in_the_order_of_the_ids():
    devices = [jax.devices()[n] for n in (5, 0, 7, 2)]
    assert slice_indices(devices, 2) == [1, 0, 1, 0]
