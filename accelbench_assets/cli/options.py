"""Options that several commands share, so that each is spelt and explained once.

Belongs here: annotated types of shared options and the parsing of their values.
Does not belong here: options of one command.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated

import typer

from accelbench_assets.cli.state import set_debug, set_quiet
from accelbench_assets.errors import UsageError


class Format(StrEnum):
    """How a result is written to stdout."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json: one document on stdout.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=set_quiet, help="No progress and no notes on stderr.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", callback=set_debug, help="Show the traceback of an unexpected error.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="At most this many rows.")]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="Prices as known at the end of this day (2026-11-30).")
]


def chosen(fmt: Format, as_json: bool) -> Format:
    """The format asked for; ``--json`` beside ``--format csv`` is refused."""
    if as_json and fmt is Format.csv:
        raise UsageError("--json and --format csv were both given: choose one.")
    return Format.json if as_json else fmt


def split_list(flag: str, values: list[str] | str | None) -> list[str]:
    """A repeatable and comma-separated flag as a list; empty elements are refused."""
    raw = [values] if isinstance(values, str) else (values or [])
    parts = [part.strip() for value in raw for part in value.split(",")]
    if any(not part for part in parts):
        raise UsageError(f"{flag}: an empty element in {','.join(raw)!r}.")
    return parts


def day_of(flag: str, text: str | None) -> date | None:
    """The day that *flag* names, ``None`` without one; anything else is refused."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is not a day such as 2026-11-30.") from None


def near(name: str, known: list[str] | tuple[str, ...]) -> str:
    """'Did you mean a, b?' or 'There are: …': what to say after an unknown name."""
    import difflib

    if not known:
        return "There are none."
    lower, spelt = name.lower(), {one.lower(): one for one in known}  # nobody mistypes only lower case
    close = [spelt[c] for c in difflib.get_close_matches(lower, list(spelt), n=3, cutoff=0.5)]
    if not close and len(name) >= 3:  # the beginning of a long name
        begin = {one[: len(name) + 1]: spelt[one] for one in spelt}
        close = [begin[b] for b in difflib.get_close_matches(lower, list(begin), n=3, cutoff=0.75)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = sorted(known)
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    return f"There are: {', '.join(shown[:12])}{more}."
