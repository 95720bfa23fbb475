"""An S3 server on loopback: moto, and before each bucket a proxy that misbehaves on request."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from saju_ops_tests.fakes.proxy import FaultProxy


class S3Server:
    """moto's S3 in this process, on a free port of loopback."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)

    def __enter__(self) -> S3Server:
        self._server.start()
        self.port: int = self._server.get_host_and_port()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def bucket(self, *, versions: bool = False, locked: bool = False) -> Iterator[Bucket]:
        """A new bucket behind a proxy of its own. In one that is `locked`, a version stays for a day."""
        with FaultProxy(self.port) as proxy:
            bucket = Bucket(f"test-{uuid.uuid4().hex[:20]}", proxy, self.url)
            bucket.client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=locked)
            if locked:
                rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
                bucket.client.put_object_lock_configuration(
                    Bucket=bucket.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
                )
            if versions:
                bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
            yield bucket


@dataclass
class Bucket:
    """What a test sees of the store, past the proxy."""

    name: str
    proxy: FaultProxy
    direct_url: str

    def __post_init__(self) -> None:
        import boto3

        self.client: Any = boto3.client(
            "s3", endpoint_url=self.direct_url, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test-secret-key",
        )  # fmt: skip

    @property
    def uri(self) -> str:
        return f"s3://{self.name}/saju"

    def objects(self) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def uploads(self) -> list[str]:
        return [u["Key"] for u in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"saju/{name}", Body=data)
