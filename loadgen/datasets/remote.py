"""A user's file in S3: fetched once, before anything is sent, into a temporary folder.

Belongs here: ``s3://bucket/key`` → a local file, bounded in size and time, and saying in one sentence why that failed.
Does not belong here: what is in the file (``requests``, ``traces``); where results go (``output``, whose S3 settings
are used).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loadgen.control import RunError
from loadgen.output import s3_system, sentence
from loadgen.plan import PlanError

MAX_BYTES = 2 * 2**30
MAX_S = 600.0
_PIECE = 8 * 2**20


def is_remote(dataset: str | None) -> bool:
    """Whether *dataset* has to be fetched."""
    return dataset is not None and dataset.startswith("s3://")


def local_path(dataset: str | None) -> str | None:
    """The path behind a ``file://`` address; ``None`` for anything else, which is a path already."""
    if dataset is None or not dataset.startswith("file://"):
        return None
    return unquote(urlsplit(dataset).path)


class Fetched:
    """The file behind *uri*, at ``path`` until :meth:`remove`; it keeps its name, since messages name it.

    Raises ``PlanError`` when there is none, it may not be read, or it is larger than *max_bytes*; ``RunError`` when
    *stop_reason* gives one meanwhile.
    """

    def __init__(
        self,
        uri: str,
        stop_reason: Callable[[], str | None],
        *,
        max_bytes: int = MAX_BYTES,
        max_s: float = MAX_S,
    ) -> None:
        parts = urlsplit(uri)
        key = uri.removeprefix("s3://").partition("/")[2]
        if not parts.netloc or not key or key.endswith("/") or "@" in parts.netloc:
            raise PlanError(f"dataset {uri}: it must be of the form s3://bucket/key")
        self.uri = uri
        self._folder: Path | None
        self._stop_reason, self._max_bytes, self._max_s = stop_reason, max_bytes, max_s
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="loadgen-dataset-"))
        except OSError as error:
            raise PlanError(f"dataset {uri}: {sentence(error, 'making a temporary folder for it')}") from None
        self.path = self._folder / (key.rsplit("/", 1)[-1][-100:] or "dataset")
        try:
            self._fetch(f"{parts.netloc}/{key}")
        except BaseException:
            self.remove()
            raise

    @classmethod
    def lent(cls, uri: str, path: Path) -> Fetched:
        """The file that another process fetched and will remove."""
        made = cls.__new__(cls)
        made.uri, made.path, made._folder = uri, path, None
        return made

    def named(self, text: str) -> str:
        """*text* with the address in place of the temporary file."""
        return text.replace(str(self.path), self.uri)

    def remove(self) -> None:
        """Forget the file; safe to call twice."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _fetch(self, place: str) -> None:
        import pyarrow as pa
        from pyarrow import fs

        until = time.monotonic() + self._max_s
        try:
            system = s3_system()
            info = system.get_file_info(place)
            if info.type != fs.FileType.File:
                raise PlanError(f"dataset {self.uri}: there is no such object")
            self._bounded(info.size or 0)
            with system.open_input_stream(place) as source:
                self._copy(source, until)
        except (OSError, pa.ArrowException) as error:
            raise PlanError(f"dataset {self.uri}: {_reason(error)}") from None

    def _copy(self, source: Any, until: float) -> None:
        size = 0
        with contextlib.ExitStack() as stack:
            file = None
            while piece := source.read(_PIECE):
                if (reason := self._stop_reason()) is not None:
                    raise RunError(reason)
                if time.monotonic() > until:
                    raise PlanError(f"dataset {self.uri}: fetching it took longer than {self._max_s:g} s")
                size += len(piece)
                self._bounded(size)
                try:
                    if file is None:
                        file = stack.enter_context(self.path.open("wb"))
                    file.write(piece)
                except OSError as error:
                    raise PlanError(
                        f"dataset {self.uri}: {sentence(error, f'writing {self.path}')}"
                    ) from None
            if file is None:
                self.path.touch()

    def _bounded(self, size: int) -> None:
        if size > self._max_bytes:
            limit = self._max_bytes / 2**30
            raise PlanError(
                f"dataset {self.uri}: it is larger than the {limit:.3g} GiB that are fetched at most"
            )


def _reason(error: Exception) -> str:
    """Why S3 refused, for people."""
    text = " ".join(str(error).split())
    if "ACCESS_DENIED" in text or "HTTP status 403" in text or "code 403" in text:
        return f"no permission to read it: {text[:300].rstrip('.')}"
    if "NO_SUCH_BUCKET" in text or "NO_SUCH_KEY" in text or "HTTP status 404" in text:
        return "there is no such object"
    return f"it could not be fetched: {text[:300].rstrip('.')}"
