"""Results on stdout: table for people, JSON and CSV for programs.

Belongs here: formatting of values, fitting a table to the terminal, the JSON and CSV forms.
Does not belong here: what is shown (each command), progress and messages (stderr, ``state`` and ``child``).

JSON of a listing is one object, ``{"rows": [...]}``, every row with the same keys; times are ISO 8601 in UTC,
money and rates are numbers at full precision, what is unknown is null. CSV has the same columns and a header.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.options import Format

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
WRAPPED_WIDTH = 30
"""A column that may wrap is given at least this many characters."""
WIDTH_WITHOUT_TERMINAL = 200
"""Columns of a table that goes to a file or pipe, where nothing needs to be cut for a screen."""
LONG_TABLE = 200
"""Tables of more rows than this are written without colours."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. The highest ``keep`` is dropped first when the terminal is narrow, 0 never.

    A column with ``wrap`` may take several lines; every other one needs its full width.
    """

    name: str
    title: str
    kind: str = "text"  # text | ms | rate | int | usd | share | time
    keep: int = 0
    wrap: bool = False


_SIMPLE = frozenset({str, int, bool, type(None)})
"""What JSON knows as it is."""


def plain(value: Any) -> Any:
    """*value* as JSON knows it: no NaN, no infinity, times in UTC ISO 8601."""
    if value is None or isinstance(value, (str, int, bool)):  # nearly all of them, so they come first
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def write_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(plain(document), ensure_ascii=False, indent=2) + "\n")


def write_json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """A listing: ``{"rows": [...]}``, streamed, one row a line."""
    separator, encode = '{"rows": [\n', json.JSONEncoder(ensure_ascii=False).encode
    for row in rows:
        simple = _SIMPLE.issuperset(map(type, row.values()))
        sys.stdout.write(separator + encode(row if simple else plain(row)))
        separator = ",\n"
    sys.stdout.write('{"rows": []}\n' if separator.startswith("{") else "\n]}\n")


def write_csv(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """CSV with a header on stdout; nested values as JSON text, unknown values empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        values = (plain(row.get(name)) for name in fields)
        writer.writerow(
            "" if v is None else json.dumps(v) if isinstance(v, (dict, list, bool)) else v for v in values
        )


def number(value: Any, digits: int = 3) -> str:
    """A figure with *digits* significant digits, never in exponent form: 0.0412, 7.35, 98.6, 1,234."""
    if value is None:
        return "-"
    x = float(value)
    if not math.isfinite(x):
        return "-"
    if x == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:,.{min(decimals, 10)}f}"


def share(value: Any) -> str:
    """A fraction as a percentage: 0%, <0.01%, 0.4%, 12%."""
    if value is None:
        return "-"
    percent = 100 * float(value)
    if percent == int(percent) or percent >= 10:
        return f"{percent:.0f}%"
    return f"{percent:.2g}%" if percent >= 0.01 else "<0.01%"


def ago(value: Any) -> str:
    """A time in UTC to the minute."""
    text = plain(value)
    return "-" if not text else str(text)[:16].replace("T", " ")


_SHOW: dict[str, Callable[[Any], str]] = {
    "ms": number,
    "rate": number,
    "usd": lambda v: number(v),
    "int": lambda v: "-" if v is None else f"{int(v):,}",
    "share": share,
    "time": ago,
    "text": lambda v: "-" if v is None or v == "" else "yes" if v is True else "no" if v is False else str(v),
}


def shown(value: Any, kind: str) -> str:
    """*value* as a table cell of this kind; ready-made strings stay as they are."""
    return value if isinstance(value, str) and kind not in ("time", "text") else _SHOW[kind](value)


def console(*, stderr: bool = False) -> Console:
    """A console that writes control characters only to a terminal and never cuts a line for a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        width = WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False, soft_wrap=False)


def _width() -> int:
    """Columns that a table on stdout may take."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return WIDTH_WITHOUT_TERMINAL
    return console().width


def cell_width(text: str) -> int:
    """Columns of a terminal that *text* takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def natural_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """The width that each column needs for its title and all its cells on one line."""
    texts = _columns(columns, cells)
    return [max([cell_width(c.title), *map(cell_width, t)]) for c, t in zip(columns, texts, strict=True)]


def _columns(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Iterable[Sequence[str]]:
    return zip(*cells, strict=True) if cells else [() for _ in columns]


def fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indexes of the columns that fit *width*; the highest ``keep`` is dropped first, from the right."""
    widest = []
    for column, natural in zip(columns, natural_widths(columns, cells), strict=True):
        widest.append(min(natural, WRAPPED_WIDTH) if column.wrap else natural)
    left = list(range(len(columns)))
    while sum(widest[i] for i in left) + GAP * (len(left) - 1) > width:
        droppable = [i for i in left if columns[i].keep > 0]
        if not droppable:
            break
        left.remove(max(droppable, key=lambda i: (columns[i].keep, i)))
    return left


def write_table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, title: str | None = None
) -> list[str]:
    """A table that fits the terminal; returns the headings of the columns that had no room."""
    cells = [[shown(row.get(c.name), c.kind) for c in columns] for row in rows]
    kept = fit(columns, cells, _width())
    dropped = [columns[i].title for i in range(len(columns)) if i not in kept]
    if len(rows) > LONG_TABLE and not any(columns[i].wrap for i in kept):
        _write_long_table([columns[i] for i in kept], [[row[i] for i in kept] for row in cells], title)
        return dropped
    from rich.text import Text

    out, table = console(), new_table()
    yielding = any(columns[i].wrap for i in kept)
    for i in kept:
        column = columns[i]
        table.add_column(
            Text(column.title),
            justify="left" if column.kind in ("text", "time") else "right",
            overflow="fold",
            no_wrap=not column.wrap and (column.keep > 0 or yielding),
        )
    for row_cells in cells:
        table.add_row(*(styled(row_cells[i]) for i in kept))
    if title:
        out.print(Text(title, style="bold"))
    out.print(table)
    return dropped


def _write_long_table(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], title: str | None = None
) -> None:
    """The same lines without colours: laying out 5,000 rows for a terminal would take seconds."""
    widths = natural_widths(columns, cells)
    right = [column.kind not in ("text", "time") for column in columns]

    def padded(text: str, width: int, to_right: bool) -> str:
        space = " " * (width - cell_width(text))
        return space + text if to_right else text + space

    def line(texts: Sequence[str]) -> str:
        return (" " * GAP).join(map(padded, texts, widths, right)).rstrip() + "\n"

    sys.stdout.write(f"{title}\n" if title else "")
    sys.stdout.write(line([column.title for column in columns]))
    sys.stdout.write("─" * (sum(widths) + GAP * (len(widths) - 1)) + "\n")
    sys.stdout.writelines(line(row) for row in cells)


def new_table() -> Table:
    """An empty table in the one style all of them have."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    padding = (0, GAP - 1, 0, 0)  # the style's own divider is one blank more
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=padding, collapse_padding=True, show_edge=False)


_STYLES = {
    "pass": "green",
    "succeeded": "green",
    "ok": "green",
    "warn": "yellow",
    "void": "red",
    "failed": "red",
    "missing": "yellow",
    "simulated": "magenta",
}


def styled(text: str) -> Any:
    """A cell, coloured where its word is a verdict or state (on a terminal only)."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, ""))


def emit(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    fmt: Format,
    *,
    fields: Sequence[str] | None = None,
    title: str | None = None,
    empty: str = "Nothing to show.",
) -> None:
    """A listing in the format asked for. *fields* are the keys of JSON and CSV, by default those of
    *columns*.
    """
    from accelbench_assets.cli.state import STATE

    keys = list(fields or [c.name for c in columns])
    if fmt is Format.json:
        write_json_rows({key: row.get(key) for key in keys} for row in rows)
    elif fmt is Format.csv:
        write_csv(rows, keys)
    elif not rows:
        STATE.note(empty)
    else:
        hidden = write_table(columns, rows, title=title)
        if hidden:
            STATE.note(f"No room for: {', '.join(hidden)} (a wider terminal, or --format json, shows them).")
