"""These tests run the same few small steps many times: compiled quickly, and shared."""

import pytest

from tests.support import quick_compiles


@pytest.fixture(scope="package", autouse=True)
def compiled_once(tmp_path_factory):
    with quick_compiles(tmp_path_factory.mktemp("compiled")):
        yield
