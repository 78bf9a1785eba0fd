"""A row of pages as whole texts and differences.

Belongs here: taking pages apart and putting them together again; exact, byte for byte. Does not belong here: fetching
them (``child``), files (``child``, and whoever reads them), what the lines mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

WHOLE_EVERY = 60


class Differ:
    """What to keep of each page of a row, in order."""

    def __init__(self, whole_every: int = WHOLE_EVERY) -> None:
        self._whole_every, self._since = whole_every, 0
        self._lines: list[str] | None = None

    def next(self, text: str, *, whole: bool = False) -> dict[str, Any]:
        """``{"text": …, "changed": None}``, or ``{"text": None, "changed": {line: value}}`` against the page before;
        *whole* forbids the latter."""
        lines, before = text.split("\n"), self._lines
        self._lines = lines
        self._since += 1
        if before is not None and not whole and self._since < self._whole_every:
            changed = _changed(before, lines)
            if changed is not None:
                return {"text": None, "changed": changed}
        self._since = 0
        return {"text": text, "changed": None}


def _changed(before: list[str], lines: list[str]) -> dict[str, str] | None:
    """What stands after the last space of the lines that differ; ``None`` when more than that differs."""
    if len(before) != len(lines):
        return None
    found: dict[str, str] = {}
    for number, (old, new) in enumerate(zip(before, lines, strict=True)):
        if old != new:
            name, space, value = new.rpartition(" ")
            if not space or old.rpartition(" ")[0] != name:
                return None
            found[str(number)] = value
    return found


def texts(readings: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every successful reading with its whole page, from *readings* in the order they were written.

    Raises ``ValueError`` for a difference that has no page before it, or names a line that is not there.
    """
    lines: list[str] | None = None
    for reading in readings:
        if reading.get("text") is not None:
            lines = reading["text"].split("\n")
        elif reading.get("changed") is not None:
            if lines is None:
                raise ValueError("a page is written as a difference to none")
            for number, value in reading["changed"].items():
                if not 0 <= int(number) < len(lines):
                    raise ValueError(f"a difference names line {number} of {len(lines)}")
                lines[int(number)] = f"{lines[int(number)].rpartition(' ')[0]} {value}"
        else:
            continue
        yield reading, "\n".join(lines)
