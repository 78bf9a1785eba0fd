"""A result file as checked fields: every value that is read is named by its file and path when it is wrong.

Belongs here: bounded reading, JSON and JSON lines, typed access that refuses what is missing, of another type
or not a finite number. Does not belong here: what a field means (one module a kind).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from accelbench_assets.errors import UsageError

MAX_BYTES = 256 * 1024 * 1024
MAX_COUNT = 2**53
"""Counts beyond this are no longer exact in JSON."""


class ImportRefused(UsageError):
    """A file that cannot be imported; the text names the file, the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read: its name without folders, the SHA-256 of its bytes, and its documents.

    ``documents`` is one JSON document, or one for each line of a ``.jsonl`` file (``lines``) and of a file that a
    tool appended to.
    """

    name: str
    sha256: str
    documents: tuple[Any, ...]
    lines: bool


def read_source(path: Path) -> Source:
    """Read a JSON or JSON lines file of at most 256 MiB. Raises ``ImportRefused`` for anything else."""
    name = path.name if path.name.isprintable() else ascii(path.name)
    try:
        if not path.is_file():
            what = (
                "is a folder" if path.is_dir() else "is no plain file" if path.exists() else "does not exist"
            )
            raise ImportRefused(f"{path} {what}.", hint="Name the result file itself.")
        if path.stat().st_size > MAX_BYTES:
            _too_large(path)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read ({error.strerror or error}).") from None
    if len(content) > MAX_BYTES:  # it grew, or is no plain file
        _too_large(path)
    if not content.strip():
        raise ImportRefused(f"{path} is empty.", hint="Did the tool end before it wrote its result?")
    lines = path.suffix == ".jsonl"
    by_line = [piece for piece in content.split(b"\n") if piece.strip()]
    pieces = by_line if lines or all(_looks_whole(piece) for piece in by_line) else [content]
    documents = tuple(_parse(path, number, piece, len(pieces) > 1) for number, piece in enumerate(pieces, 1))
    return Source(name, hashlib.sha256(content).hexdigest(), documents, lines)


def _looks_whole(line: bytes) -> bool:
    """Whether a line begins and ends as an object does: a file of such lines holds one result a line."""
    line = line.strip()
    return line.startswith(b"{") and line.endswith(b"}") and len(line) > 2


def _too_large(path: Path) -> NoReturn:
    raise ImportRefused(
        f"{path} is larger than {MAX_BYTES // 2**20} MiB.",
        hint="Import the tool's summary file, or write the result without the details of each request.",
    )


def _parse(path: Path, line: int, content: bytes, lines: bool) -> Any:
    where = f"{path}, line {line}" if lines else f"{path}"
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if lines else f"line {error.lineno}, column {error.colno}"
        text = f"{where} is not complete JSON ({error.msg} at {at})."
        raise ImportRefused(text, hint="Was it cut short? Import the whole file.") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, nested without end
        text = f"{where} is not JSON that can be read."
        raise ImportRefused(text, hint="Import the file as the tool wrote it.") from None


class Fields:
    """A JSON object with a place: ``benchmarks[0].metrics``. Everything read from it is checked."""

    def __init__(self, file: str, data: object, place: str = "") -> None:
        self.file, self.place = file, place
        if not isinstance(data, Mapping):
            self._refuse("", f"is {_kind(data)}, expected an object")
        self._data: Mapping[str, Any] = data

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def names(self) -> list[str]:
        """The keys of the object, in order."""
        return list(self._data)

    def raw(self, name: str) -> Any:
        """The value of *name* unchecked; ``None`` when it is missing."""
        return self._data.get(name)

    def _refuse(self, name: str, problem: str) -> NoReturn:
        field = ".".join(part for part in (self.place, name) if part) or "the document"
        raise ImportRefused(
            f"{self.file}: {field} {problem}.",
            hint="Import the file as the tool wrote it; a changed or broken one is not taken.",
        )

    def number(self, name: str, low: float = 0.0) -> float:
        """A finite number of at least *low*."""
        value = self._data.get(name)
        if value is None:
            self._refuse(name, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(name, f"is {_kind(value)}, expected a number")
        if not math.isfinite(value) or abs(value) > 1e300:
            self._refuse(name, f"is {value}, which is no figure")
        if value < low:
            self._refuse(name, f"is {value:g}, expected at least {low:g}")
        return float(value)

    def maybe(self, name: str, low: float = 0.0) -> float | None:
        """As :meth:`number`, ``None`` when the field is missing or null."""
        return self.number(name, low) if name in self else None

    def count(self, name: str) -> int:
        """A whole number >= 0 (a tool may write it as 32.0)."""
        value = self.number(name)
        if value != int(value) or value > MAX_COUNT:
            self._refuse(name, f"is {value:g}, expected a whole number")
        return int(value)

    def text(self, name: str) -> str:
        """A text that is not empty, of at most 1,000 characters."""
        value = self._data.get(name)
        if not isinstance(value, str) or not value.strip() or len(value) > 1000:
            self._refuse(name, "is missing" if value is None else f"is {_kind(value)}, expected a short text")
        return value

    def maybe_text(self, name: str) -> str | None:
        """As :meth:`text`, ``None`` when the field is missing or null."""
        return self.text(name) if name in self else None

    def child(self, name: str) -> Fields:
        """The object *name*."""
        if name not in self:
            self._refuse(name, "is missing")
        return Fields(self.file, self._data[name], f"{self.place}.{name}".lstrip("."))

    def maybe_child(self, name: str) -> Fields | None:
        """The object *name*, ``None`` when it is missing or null."""
        return self.child(name) if name in self else None

    def children(self, name: str) -> Iterator[Fields]:
        """The objects of the list *name*, which must have at least one."""
        value = self._data.get(name)
        if not isinstance(value, list) or not value:
            self._refuse(name, "is missing" if value is None else "is no list with anything in it")
        for index, item in enumerate(value):
            yield Fields(self.file, item, f"{self.place}.{name}[{index}]".lstrip("."))


def _kind(value: object) -> str:
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
