"""Where parts and ``shard.json`` go: a folder, or a prefix in S3.

Belongs here: writing whole small files atomically, and saying in one sentence why that failed.
Does not belong here: what is in them (``samples``, ``run``).

In a folder a file appears complete or not at all (temporary file, fsync, rename, fsync of the folder); S3
puts are atomic by nature. What S3 refuses after it took a probe is kept in a local folder. S3 is addressed by
the usual variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ….
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from loadgen.plan import PlanError

_S3_CONNECT_TIMEOUT_S, _S3_REQUEST_TIMEOUT_S = 5.0, 30.0


class OutputError(Exception):
    """A part could not be written; the text is one sentence for people."""


class Sink(Protocol):
    """A place for files."""

    def put(self, name: str, data: bytes) -> None:
        """Write one file whole; raises ``OutputError``."""


def open_sink(uri: str, folder: str) -> Sink:
    """A sink for *folder* under *uri* (a path, ``file://`` or ``s3://bucket/prefix``)."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise PlanError(f"out: {uri} names no bucket")
        return _S3Sink(uri.rstrip("/"), f"{parts.netloc}{parts.path}".rstrip("/") + f"/{folder}")
    if parts.scheme not in ("", "file"):
        raise PlanError(f"out: {parts.scheme}:// is not supported; use a folder, file:// or s3://")
    return _FolderSink((Path(unquote(parts.path)) if parts.scheme else Path(uri)) / folder)


class _FolderSink:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(sentence(error, f"making the folder {folder}")) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(sentence(OSError(errno.EACCES, ""), f"writing to {folder}"))

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        partial = self.folder / f".{name}.{os.getpid()}.tmp"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                partial.unlink(missing_ok=True)
            raise OutputError(sentence(error, f"writing {path}")) from None


class _S3Sink:
    """Proves in its constructor that it can write: wrong credentials must not show after an hour of load."""

    def __init__(self, uri: str, prefix: str) -> None:
        self._uri, self._prefix = uri, prefix
        self._connected: Any = None
        self._proved = False
        self._kept: _FolderSink | None = None
        probe = f".probe-{os.getpid()}"
        self.put(probe, b"probe")
        self._proved = True
        with contextlib.suppress(OSError):  # who may write but not delete can still measure
            self._system().delete_file(f"{prefix}/{probe}")

    def put(self, name: str, data: bytes) -> None:
        import pyarrow as pa

        try:
            with self._system().open_output_stream(f"{self._prefix}/{name}") as stream:
                stream.write(data)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            kept = self._keep(name, data) if self._proved else ""
            raise OutputError(f"Writing {self._uri}/…/{name} to S3 failed: {reason}.{kept}") from None

    def _keep(self, name: str, data: bytes) -> str:
        """Save what S3 did not take in a temporary folder; a sentence that says where."""
        try:
            if self._kept is None:
                self._kept = _FolderSink(Path(tempfile.mkdtemp(prefix="loadgen-kept-")))
            self._kept.put(name, data)
        except (OSError, OutputError) as error:
            return f" It could not be kept on this machine either: {error}"
        return f" It was kept in {self._kept.folder}; copy it to S3 by hand."

    def _system(self) -> Any:
        if self._connected is None:
            self._connected = s3_system()
        return self._connected


def s3_system() -> Any:
    """pyarrow's S3 by the usual variables, with bounded waits."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
    return fs.S3FileSystem(
        endpoint_override=endpoint.rstrip("/") if endpoint else None,
        region=region or ("us-east-1" if endpoint else None),
        connect_timeout=_S3_CONNECT_TIMEOUT_S,
        request_timeout=_S3_REQUEST_TIMEOUT_S,
    )


def sentence(error: OSError, doing: str) -> str:
    """What went wrong while *doing* something with a file, for people."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full: {doing} failed. Free some space and run the command again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"No permission to write: {doing} failed. Choose another place or change its permissions."
    return f"{doing[:1].upper()}{doing[1:]} failed: {error.strerror or error}."
