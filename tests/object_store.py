"""Object stores without a cloud: fsspec's memory, a folder, and moto's server, which speaks S3."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Environment variables with which s3:// leads to a server in this process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'thinksafe-jax[s3]'")
    moto = pytest.importorskip("moto.server", reason="moto's server (extra test) is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


@contextlib.contextmanager
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket on such a server, with the environment set for this process."""
    with s3_server() as variables:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            bucket = f"test-{uuid.uuid4().hex[:8]}"  # servers of one process share their memory
            s3fs.S3FileSystem().mkdir(bucket)
            yield f"s3://{bucket}"
        finally:
            os.environ.clear()
            os.environ.update(before)
