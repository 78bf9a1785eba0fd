"""The lake's storage on S3 or anything that speaks it: boto3 for control, pyarrow for columnar data.

Belongs here: the S3 implementation of ``storage.Storage`` and the sentences for what S3 can answer.
Does not belong here: layout and commit rules. ``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``) is respected;
with an endpoint set, addressing is path-style. Credentials come from boto3's usual chain.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.storage import CHUNK_BYTES, MissingKeyError

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 30
ATTEMPTS = 3
PROBE_TIMEOUT_S = 4
POOL_CONNECTIONS = 32

_DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "AllAccessDisabled",
}
_MISSING = {"NoSuchKey", "404", "NotFound"}


def endpoint_url() -> str | None:
    """The S3 endpoint named by the environment, or ``None`` for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


class S3Storage:
    """Objects under ``s3://bucket/prefix``. The client is made on first use and shared by threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.netloc:
            raise LakeError(f"The lake {url!r} names no bucket; write s3://bucket/prefix.")
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._client: Any = None
        self._known_session: Any = None

    # -- connection ------------------------------------------------------------------------------------------

    def _session(self) -> Any:
        try:
            import boto3
        except ImportError:
            raise LakeError(
                f"The lake {self.url} needs boto3, which is not installed.",
                hint="Run: pip install 'accelbench[aws]'",
            ) from None
        if self._known_session is None:
            self._known_session = boto3.session.Session()
        return self._known_session

    def _make_client(self, connect_s: float, read_s: float, attempts: int) -> Any:
        from botocore.config import Config

        session = self._session()
        config = Config(
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            max_pool_connections=POOL_CONNECTIONS,
            s3={"addressing_style": "path"} if endpoint_url() else {},
        )
        with self._errors("connecting to"):
            return session.client(
                "s3",
                endpoint_url=endpoint_url(),
                region_name=session.region_name or "us-east-1",
                config=config,
            )

    @property
    def client(self) -> Any:
        """The boto3 client with bounded timeouts and retries."""
        if self._client is None:
            self._client = self._make_client(CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS)
        return self._client

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextlib.contextmanager
    def _errors(self, doing: str, key: str = "") -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        target = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError):
            raise LakeError(
                f"No AWS credentials were found for the lake {self.url}.",
                hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            ) from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "?"))
            if code == "NoSuchBucket":
                raise LakeError(
                    f"The S3 bucket {self.bucket} does not exist.",
                    hint="Create it or correct ACCELBENCH_LAKE.",
                ) from None
            if code in _MISSING:
                raise MissingKeyError(f"There is no {key} in the lake {self.url}.") from None
            if code in _DENIED:
                raise LakeError(
                    f"S3 denied {doing} {target} ({code}).",
                    hint="Check the credentials and the rights on the bucket.",
                ) from None
            raise LakeError(f"S3 answered {code} when {doing} {target}.", hint="Try again later.") from None
        except (BotoCoreError, Boto3Error, OSError) as error:
            where = endpoint_url() or "AWS"
            raise LakeError(
                f"S3 cannot be reached at {where} for the lake {self.url} ({type(error).__name__}).",
                hint="Check the network and AWS_ENDPOINT_URL.",
            ) from None

    # -- Storage ---------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes:
        """See ``Storage``."""
        return b"".join(self.chunks(key))

    def chunks(self, key: str) -> Iterator[bytes]:
        """See ``Storage``."""
        with self._errors("reading", key):
            body = self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]
            yield from body.iter_chunks(CHUNK_BYTES)

    def write(self, key: str, data: bytes) -> None:
        """See ``Storage``; a put is atomic."""
        with self._errors("writing", key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def put_file(self, key: str, path: Path) -> None:
        """See ``Storage``."""
        with self._errors("writing", key):
            self.client.upload_file(str(path), self.bucket, self._key(key))

    def create(self, key: str, data: bytes) -> bool:
        """See ``Storage``; by ``If-None-Match: *``.

        A retry after a lost answer can meet the object it wrote itself: equal bytes count as written by us.
        """
        from botocore.exceptions import ClientError

        with self._errors("writing", key):
            for _ in range(ATTEMPTS):
                try:
                    self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    code = str(error.response.get("Error", {}).get("Code", ""))
                    retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
                    if code in ("PreconditionFailed", "412"):
                        return bool(retried) and self.read(key) == data
                    # Another writer is at it: look again.
                    if code not in ("ConditionalRequestConflict", "409"):
                        raise
            return False

    def move(self, source: str, target: str) -> None:
        """See ``Storage``; a server-side copy, then a delete. A crash between leaves both, and a repeat mends
        it.
        """
        if not self.exists(source) and self.exists(target):
            return
        with self._errors("moving", source):
            origin = {"Bucket": self.bucket, "Key": self._key(source)}
            self.client.copy(origin, self.bucket, self._key(target))
        self.delete(source)

    def list(self, prefix: str) -> list[str]:
        """See ``Storage``."""
        base = self._key(prefix).rstrip("/") + "/"
        strip = len(self.prefix) + 1 if self.prefix else 0
        found: list[str] = []
        with self._errors("listing", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=base
            ):
                found += [item["Key"][strip:] for item in page.get("Contents", ())]
        return sorted(k for k in found if not k.endswith("/") and "/." not in k)

    def exists(self, key: str) -> bool:
        """See ``Storage``."""
        try:
            with self._errors("looking for", key):
                self.client.head_object(Bucket=self.bucket, Key=self._key(key))
        except MissingKeyError:
            return False
        return True

    def delete(self, key: str) -> None:
        """See ``Storage``."""
        with self._errors("deleting", key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def probe(self) -> None:
        """See ``Storage``; one attempt with short timeouts."""
        client = self._make_client(PROBE_TIMEOUT_S, PROBE_TIMEOUT_S, 1)
        key = f"_incoming/.probe-{os.getpid()}"
        with self._errors("writing", key):
            client.put_object(Bucket=self.bucket, Key=self._key(key), Body=b"probe")
            client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def arrow(self) -> tuple[Any, str]:
        """See ``Storage``; made anew each time, as role credentials expire."""
        from pyarrow.fs import S3FileSystem

        session = self._session()
        with self._errors("connecting to"):
            credentials = session.get_credentials()
            if credentials is None:
                raise LakeError(f"No AWS credentials were found for the lake {self.url}.")
            frozen = credentials.get_frozen_credentials()
        options: dict[str, Any] = {
            "access_key": frozen.access_key,
            "secret_key": frozen.secret_key,
            "session_token": frozen.token,
            "region": session.region_name or "us-east-1",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "request_timeout": READ_TIMEOUT_S,
        }
        if endpoint := endpoint_url():
            parts = urlsplit(endpoint)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        base = f"{self.bucket}/{self.prefix}".rstrip("/")
        return S3FileSystem(**options), base
