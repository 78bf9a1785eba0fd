"""Arrival traces: when requests came and how long they were.

Belongs here: the formats of the public traces. Does not belong here: replaying (``schedule.replay``), text
of such lengths (``contents``).

``azure``: CSV ``TIMESTAMP,ContextTokens,GeneratedTokens`` with a date and time (Azure LLM inference traces).
``mooncake``: JSON lines ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` (of 512-token
prefix blocks). ``burstgpt``: CSV ``Timestamp`` (s), ``Model``, ``Request tokens``, ``Response tokens``,
``Total tokens``, ``Log Type``; rows without response tokens are requests that failed there, and are left out
and counted.
"""

from __future__ import annotations

import csv
import hashlib
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.datasets import Faults
from loadgen.datasets.requests import lines, mapped
from loadgen.plan import PlanError
from loadgen.schedule import NS

_COLUMNS = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
}
_LONGEST = 10_000_000


@dataclass(slots=True)
class Trace:
    """Rows in order of arrival; ``offsets_ns`` since the first. 16 bytes a row, and 4 a block hash."""

    path: Path
    kind: str
    sha256: str = ""
    left_out: int = 0
    offsets_ns: array[int] = field(default_factory=lambda: array("q"))
    input_tokens: array[int] = field(default_factory=lambda: array("I"))
    output_tokens: array[int] = field(default_factory=lambda: array("I"))
    _hashes: array[int] = field(default_factory=lambda: array("I"))
    _ends: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.offsets_ns)

    @property
    def requests_per_s(self) -> float:
        """Mean rate of arrivals, as ``schedule.replay`` closes the ring."""
        return (len(self) - 1) / (self.offsets_ns[-1] - self.offsets_ns[0]) * NS

    @property
    def has_hashes(self) -> bool:
        """Whether any row names its prefix blocks."""
        return bool(self._hashes)

    def hashes(self, row: int) -> Sequence[int]:
        """Block hashes of a row."""
        return self._hashes[self._ends[row - 1] if row else 0 : self._ends[row]]

    def add(self, at_ns: int, tokens_in: int, tokens_out: int, hashes: Sequence[int]) -> None:
        """Append a row; raises ``ValueError`` when it is earlier than the one before."""
        if self.offsets_ns and at_ns < self.offsets_ns[-1]:
            raise ValueError("timestamp: earlier than the line before")
        self._hashes.extend(hashes)
        self._ends.append(len(self._hashes))
        self.offsets_ns.append(at_ns)
        self.input_tokens.append(tokens_in)
        self.output_tokens.append(tokens_out)


def read(path: Path, kind: str | None = None) -> Trace:
    """Check every line of a trace of *kind*, or of the kind its first line shows; raises ``PlanError`` with
    the first ten faults by line and field, and their number."""
    data = mapped(path)
    found = _recognise(data[: max(0, data.find(b"\n"))] or data[:4096])
    if found is None or (kind is not None and found != kind):
        wanted = kind or "azure, mooncake or burstgpt"
        raise PlanError(f"dataset {path}: its first line is not that of a trace of format {wanted}")
    trace, faults, digest = Trace(path, found), Faults(path), hashlib.sha256()
    rows = _mooncake(data, digest, faults) if found == "mooncake" else _table(data, digest, faults, found)
    first: int | None = None
    for number, at_ns, tokens_in, tokens_out, hashes in rows:
        first = at_ns if first is None else first
        if tokens_out == 0 and found == "burstgpt":
            trace.left_out += 1
            continue
        try:
            trace.add(at_ns - first, tokens_in, max(1, tokens_out), hashes)
        except (ValueError, OverflowError) as error:
            faults.add(number, str(error))
    faults.check()
    if len(trace) < 2 or trace.offsets_ns[-1] == trace.offsets_ns[0]:
        raise PlanError(f"dataset {path}: a trace needs at least two arrivals at different times")
    trace.sha256 = digest.hexdigest()
    return trace


def _recognise(first: bytes) -> str | None:
    text = first.decode("utf-8-sig", "replace").strip()
    if text.startswith("{"):
        return "mooncake" if '"input_length"' in text and '"timestamp"' in text else None
    names = {name.strip() for name in next(csv.reader([text]), [])}
    return next((kind for kind, columns in _COLUMNS.items() if names >= set(columns)), None)


_Row = tuple[int, int, int, int, Sequence[int]]


def _table(data: Any, digest: Any, faults: Faults, kind: str) -> Iterator[_Row]:
    columns = _COLUMNS[kind]
    moment: Callable[[str], int] = _date_ns if kind == "azure" else _seconds_ns
    places: list[int] = []
    for number, _, line in lines(data):
        digest.update(line + b"\n")
        text = line.decode("utf-8-sig", "replace").rstrip("\r")
        listed = next(csv.reader([text])) if '"' in text else text.split(",")
        values = [value.strip() for value in listed]
        if not places:
            places = [values.index(name) for name in columns]
            continue
        try:
            if len(values) <= max(places):
                raise ValueError(f"{len(values)} fields; {columns[-1]} is missing")
            at_ns = _field(columns[0], moment, values[places[0]])
            tokens = [_field(columns[k], _count, values[places[k]]) for k in (1, 2)]
        except ValueError as error:
            faults.add(number, str(error))
            continue
        yield number, at_ns, max(1, tokens[0]), tokens[1], ()


def _field(name: str, convert: Callable[[str], int], text: str) -> int:
    try:
        return convert(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: {text[:40]!r} cannot be read") from None


def _count(text: str) -> int:
    value = float(text)
    if value != int(value) or not 0 <= value <= _LONGEST:
        raise ValueError
    return int(value)


def _seconds_ns(text: str) -> int:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return round(value * NS)


def _date_ns(text: str) -> int:
    """Nanoseconds since 1970; the traces write seven decimals, which dates of Python do not hold."""
    head, dot, rest = text.partition(".")
    digits = rest[: next((k for k, c in enumerate(rest) if not c.isdigit()), len(rest))]
    when = datetime.fromisoformat(head + rest[len(digits) :] if dot else text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    fraction = int(digits.ljust(9, "0")[:9]) if dot else 0
    return math.floor(when.timestamp()) * NS + fraction


def _mooncake(data: Any, digest: Any, faults: Faults) -> Iterator[_Row]:
    import orjson

    for number, _, line in lines(data):
        digest.update(line + b"\n")
        try:
            row = orjson.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            at = _number(row, "timestamp", 1e12)
            sizes = [_number(row, name, _LONGEST) for name in ("input_length", "output_length")]
            hashes = row.get("hash_ids", [])
            if not isinstance(hashes, list) or not all(type(h) is int and 0 <= h < 2**32 for h in hashes):
                raise ValueError("hash_ids: a list of whole numbers is needed")
        except orjson.JSONDecodeError as error:
            faults.add(number, f"not JSON: {error}")
            continue
        except ValueError as error:
            faults.add(number, str(error))
            continue
        yield number, round(at * 1_000_000), max(1, int(sizes[0])), int(sizes[1]), hashes


def _number(row: dict[str, Any], name: str, limit: float) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise ValueError(f"{name}: {str(value)[:40]!r} is not a number from 0 to {limit:g}")
    return float(value)
