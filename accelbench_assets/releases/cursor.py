"""What a sensor remembers between two looks, as text.

Belongs here: ``Cursor``, its JSON form with a version field, and reading it back however damaged it is.
Does not belong here: what changes it (``follow``).

A cursor that cannot be used is no cursor: the next look takes note of what is there, says so, and starts nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

FORMAT = 1
ID_DIGITS = 12
SEEN_KEPT = 16
MAX_CHARACTERS = 2 * 1024 * 1024
_MONTH = re.compile(r"\d{4}-\d{2}")
_IDS = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Pending:
    """A release that is being followed: its value, what identifies its artefact, where it was seen, and the cells
    (12 hex of each new key's SHA-256) whose run was asked for.
    """

    value: str
    identity: str
    ref: str
    done: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class State:
    """Of one subject: the newest value known, the latest values that were followed, and what is under way."""

    known: str
    seen: tuple[str, ...] = ()
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """When was looked last, what was asked for in ``month`` (UTC, ``2026-11``), and every subject's state by name."""

    looked_at: datetime
    month: str
    runs: int = 0
    usd: Decimal = Decimal(0)
    subjects: Mapping[str, State] = field(default_factory=dict)


def month_of(moment: datetime) -> str:
    """The calendar month of *moment* in UTC: ``2026-11``."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def encode(cursor: Cursor) -> str:
    """*cursor* as text; the same cursor gives the same text."""
    subjects: dict[str, Any] = {}
    for name, state in sorted(cursor.subjects.items()):
        entry: dict[str, Any] = {"known": state.known, "seen": list(state.seen[-SEEN_KEPT:])}
        if (under_way := state.pending) is not None:
            entry["pending"] = {
                "value": under_way.value,
                "identity": under_way.identity,
                "ref": under_way.ref,
                "done": "".join(sorted(under_way.done)),
            }
        subjects[name] = entry
    document = {
        "version": FORMAT,
        "looked_at": cursor.looked_at.astimezone(UTC).isoformat(),
        "month": cursor.month,
        "runs": cursor.runs,
        "usd": str(cursor.usd),
        "subjects": subjects,
    }
    return json.dumps(document, separators=(",", ":"))


def decode(text: str | None) -> tuple[Cursor | None, str | None]:
    """The cursor of *text*, and a warning if there is a text that is none. No text is a first look: no warning."""
    if not text:
        return None, None
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError("it is too long")
        document = json.loads(text)
        version = document["version"] if isinstance(document, dict) else None
        if version != FORMAT:
            raise ValueError(f"it has version {version!r}, not {FORMAT}")
        return _cursor(document), None
    except KeyError as error:
        problem = f"it lacks {error.args[0]!r}"
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)
    return (
        None,
        f"What was remembered cannot be used ({problem[:200]}): this look only takes note of what is there.",
    )


def _cursor(document: Mapping[str, Any]) -> Cursor:
    looked_at = datetime.fromisoformat(_text(document, "looked_at"))
    if looked_at.tzinfo is None:
        raise ValueError("looked_at has no time zone")
    month, runs = _text(document, "month"), document["runs"]
    if not _MONTH.fullmatch(month) or type(runs) is not int or runs < 0:
        raise ValueError("month or runs is not what it should be")
    try:
        usd = Decimal(_text(document, "usd"))
    except InvalidOperation:
        raise ValueError("usd is not a number") from None
    if not usd.is_finite() or usd < 0:
        raise ValueError("usd is not an amount")
    subjects = document["subjects"]
    if not isinstance(subjects, dict):
        raise ValueError("subjects is not an object")
    return Cursor(looked_at, month, runs, usd, {name: _state(entry) for name, entry in subjects.items()})


def _state(entry: Mapping[str, Any]) -> State:
    seen = entry["seen"]
    if not isinstance(seen, list) or not all(isinstance(value, str) for value in seen):
        raise ValueError("seen is not a list of texts")
    raw, pending = entry.get("pending"), None
    if raw is not None:
        done = _text(raw, "done")
        if not _IDS.fullmatch(done) or len(done) % ID_DIGITS:
            raise ValueError("done is not a row of cell ids")
        ids = frozenset(done[at : at + ID_DIGITS] for at in range(0, len(done), ID_DIGITS))
        pending = Pending(_text(raw, "value"), _text(raw, "identity"), _text(raw, "ref"), ids)
    return State(_text(entry, "known"), tuple(seen[-SEEN_KEPT:]), pending)


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value
