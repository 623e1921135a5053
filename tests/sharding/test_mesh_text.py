"""Mesh files that are written: read again they say the same."""

import dataclasses

import pytest

from tests.sharding.kit import NAMES, write_mesh
from thinksafe_jax.sharding import load_mesh, mesh_text


@pytest.mark.parametrize("name", NAMES)
def test_a_written_file_is_read_as_what_was_written(name, tmp_path):
    mesh = load_mesh(name)
    file = tmp_path / f"{name}.yaml"
    file.write_text(mesh_text(name, mesh.train, mesh.generate, ["thinksafe plan", "", "Why."]))
    assert load_mesh(file) == mesh
    assert file.read_text().startswith("# thinksafe plan\n#\n# Why.\ntopology:\n  chip: ")


def test_a_chip_that_the_file_describes_itself_is_kept(tmp_path):
    source = write_mesh(tmp_path, ("test chip", "'a: chip'"))
    mesh = load_mesh(source)
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "mine.yaml"
    narrow = dataclasses.replace(
        mesh.train, axes={"replica": 8, "tensor": 1}, rules={**mesh.train.rules, "norm": ()}
    )
    copy.write_text(mesh_text(source, narrow, mesh.generate, []))
    assert load_mesh(copy) == dataclasses.replace(mesh, train=narrow)
