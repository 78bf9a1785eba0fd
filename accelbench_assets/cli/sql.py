"""``accelbench sql``: DuckDB over the lake, with every table, mart and view attached, read-only.

Belongs here: running one query and writing its rows.
Does not belong here: attaching the tables (``sqlkit.duck``), queries of the product (``sql/``).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, plain, shown, write_json_rows, write_table
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 10_000


def sql(
    statement: Annotated[
        str | None, typer.Argument(metavar="SQL", help="A query; `-` reads it from stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the query from a file.")] = None,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Most rows of a table; JSON and CSV always have all.")
    ] = 200,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Query the lake with DuckDB: raw_samples, runs, run_steps, run_percentiles, marts, views. `show tables`
    lists them.
    """
    format_ = chosen(fmt, as_json)
    text = read_statement(statement, file)
    from accelbench_assets.sqlkit.duck import query

    table = query(STATE.lake(), text)
    names = unique(table.column_names)
    if format_ is Format.json:
        write_json_rows(dict(zip(names, row, strict=True)) for row in _rows(table))
    elif format_ is Format.csv:
        write_csv_rows(table, names)
    else:
        show_rows(table, names, max_rows)


def read_statement(statement: str | None, file: Path | None) -> str:
    """The query from the argument, a file or stdin; exactly one of them."""
    if (statement is None) == (file is None):
        raise UsageError(
            "sql needs a query: as an argument, as `-` for stdin, or with --file PATH (one of them)."
        )
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--file: {file} cannot be read ({getattr(error, 'strerror', None) or error})."
            ) from None
    else:
        text = sys.stdin.read() if statement == "-" else str(statement)
    if not text.strip():
        raise UsageError("sql: the query is empty.")
    return text


def unique(names: list[str]) -> list[str]:
    """Column names, made unique as ``name_2`` (a join may bring the same name twice; JSON keys may not)."""
    counts: dict[str, int] = {}
    made = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        made.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return made


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows as tuples, a batch at a time: columns may share a name, so a row is no dict."""
    for batch in table.to_batches(max_chunksize=BATCH):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def write_csv_rows(table: pa.Table, names: list[str]) -> None:
    """CSV with a header, streamed."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in _rows(table):
        values = (plain(value) for value in row)
        writer.writerow(
            "" if v is None else json.dumps(v) if isinstance(v, (dict, list, bool)) else v for v in values
        )


def show_rows(table: pa.Table, names: list[str], max_rows: int) -> None:
    """A table of at most *max_rows* rows; says when there are more."""
    import pyarrow.types as kinds

    numeric = [kinds.is_integer(t) or kinds.is_floating(t) or kinds.is_decimal(t) for t in table.schema.types]
    columns = [
        Column(name, name, "rate" if right else "text", keep=i)
        for i, (name, right) in enumerate(zip(names, numeric, strict=True))
    ]
    rows = [dict(zip(names, map(_cell, row), strict=True)) for row in _rows(table.slice(0, max_rows))]
    hidden = write_table(columns, rows)
    if hidden:
        STATE.note(f"No room for: {', '.join(hidden)} (a wider terminal, or --format json, shows them).")
    if table.num_rows > max_rows:
        STATE.note(f"first {max_rows} of {table.num_rows} rows; --max-rows, --format json and csv show all")
    else:
        STATE.note(f"{table.num_rows} rows")


def _cell(value: Any) -> str:
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 6:
        return f"[{', '.join(map(str, value[:6]))}, … {len(value)}]"
    return shown(value, "text")
