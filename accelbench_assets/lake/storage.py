"""The one seam between the lake and where bytes lie: the ``Storage`` protocol and its local implementation.

Belongs here: named blobs under a root with atomic write, create-if-absent, move, list and delete. Keys are
relative, ``/``-separated, never start with ``/`` and never hold ``..``.
Does not belong here: layout, tables, the commit (``lake``, ``commit``, ``io``); S3 (``s3``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from accelbench_assets.errors import LakeError, describe_os_error

CHUNK_BYTES = 1 << 20


class MissingKeyError(LakeError):
    """The named blob does not exist."""


class Storage(Protocol):
    """Named blobs under one root. Every method raises ``LakeError`` with one clear sentence and is bounded in
    time.
    """

    url: str

    def read(self, key: str) -> bytes:
        """The whole blob; ``MissingKeyError`` if there is none."""
        ...

    def chunks(self, key: str) -> Iterator[bytes]:
        """The blob in pieces of about a megabyte, for hashing without holding it."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write or replace atomically: a reader sees the old blob or the new one, never a part."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """As :meth:`write`, from a local file of any size."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write only if absent, atomically; False if the key exists. Of any number of racers exactly one gets
        True.
        """
        ...

    def move(self, source: str, target: str) -> None:
        """Rename; safe to repeat after a crash (a missing source with a present target is done)."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Every key below the folder *prefix*, sorted; names that start with a dot are invisible."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the blob exists."""
        ...

    def delete(self, key: str) -> None:
        """Remove the blob; nothing happens when it is absent."""
        ...

    def probe(self) -> None:
        """Write and remove a small blob; raises ``LakeError`` within 10 s when the root cannot be written."""
        ...

    def arrow(self) -> tuple[Any, str]:
        """``(pyarrow filesystem, base path)`` for columnar data."""
        ...


def open_storage(url: str) -> Storage:
    """The storage of ``file:///abs`` or ``s3://bucket/prefix``. Nothing is contacted or created yet."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from accelbench_assets.lake.s3 import S3Storage

        return S3Storage(url)
    if parts.scheme == "file" and parts.path.startswith("/"):
        return LocalStorage(Path(unquote(parts.path)))
    raise LakeError(f"The lake {url!r} is neither file:///folder nor s3://bucket/prefix.")


class LocalStorage:
    """A folder. Writes go to a hidden temporary file beside the target, are fsynced, then renamed or
    hard-linked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise LakeError(f"{key!r} is not a name inside the lake.")
        return self.root / key

    @contextlib.contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise MissingKeyError(f"There is no {key} in the lake {self.url}.") from None
        except OSError as error:
            raise LakeError(describe_os_error(error, doing, str(self._path(key)))) from error

    @contextlib.contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def read(self, key: str) -> bytes:
        """See ``Storage``."""
        with self._errors("reading", key):
            return self._path(key).read_bytes()

    def chunks(self, key: str) -> Iterator[bytes]:
        """See ``Storage``."""
        with self._errors("reading", key), self._path(key).open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    def write(self, key: str, data: bytes) -> None:
        """See ``Storage``."""
        target = self._path(key)
        with self._errors("writing", key), self._temporary(target) as temporary:
            _write_durably(temporary, data)
            temporary.replace(target)
            _sync_folder(target.parent)

    def put_file(self, key: str, path: Path) -> None:
        """See ``Storage``."""
        target = self._path(key)
        with self._errors("writing", key), self._temporary(target) as temporary:
            with path.open("rb") as source, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(target)

    def create(self, key: str, data: bytes) -> bool:
        """See ``Storage``."""
        target = self._path(key)
        with self._errors("writing", key), self._temporary(target) as temporary:
            _write_durably(temporary, data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                if not _create_without_links(target, data):  # FAT, some network mounts
                    return False
            _sync_folder(target.parent)
            return True

    def move(self, source: str, target: str) -> None:
        """See ``Storage``."""
        old, new = self._path(source), self._path(target)
        with self._errors("moving", source):
            if not old.exists() and new.exists():
                return
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                old.replace(new)
            except OSError as error:
                if error.errno != errno.EXDEV:  # a folder of the lake lies on another disk
                    raise
                self.put_file(target, old)
                old.unlink()
            _sync_folder(new.parent)

    def list(self, prefix: str) -> list[str]:
        """See ``Storage``."""
        found: list[str] = []
        start = self._path(prefix)
        with self._errors("listing", prefix):
            for folder, folders, names in os.walk(start, onerror=_raise_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                relative = os.path.relpath(folder, self.root)
                found += [f"{relative}/{name}" for name in names if not name.startswith(".")]
        return sorted(found)

    def exists(self, key: str) -> bool:
        """See ``Storage``."""
        with self._errors("looking for", key):
            return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """See ``Storage``."""
        path = self._path(key)
        with self._errors("deleting", key):
            path.unlink(missing_ok=True)
        for (
            folder
        ) in path.parents:  # a run's own folders go when empty; shared ones stay, others may be using them
            if not folder.name.startswith(("run_id=", "shard=")):
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def probe(self) -> None:
        """See ``Storage``."""
        self.write("_incoming/.probe", b"probe")
        self.delete("_incoming/.probe")

    def arrow(self) -> tuple[Any, str]:
        """See ``Storage``."""
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _create_without_links(target: Path, data: bytes) -> bool:
    try:
        with target.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
