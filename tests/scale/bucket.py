"""A bucket of an S3 that answers on this machine alone (moto), for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "tunelift-tests"


@contextmanager
def s3_bucket(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an empty bucket, which processes begun meanwhile find too; skip without the packages."""
    pytest.importorskip("s3fs", reason="the extra storage is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    named = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a", "AWS_DEFAULT_REGION": "us-east-1"}
    serving = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    serving.start()
    try:
        host, port = serving.get_host_and_port()
        for name, value in {**named, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        serving.stop()
