"""Arrow tables to PostgreSQL by COPY, back again, and the comparison of both.

Belongs here: CSV as PostgreSQL and Arrow both read it, fingerprints. Does not belong here: what is sent,
transactions.

Both ways go through CSV with every value quoted and null unquoted: it is exact for float64 (shortest
round-trip text) and needs no Python object per value.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import PublishError
from accelbench_assets.lake.tables import SCHEMAS, json_columns

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Number of rows and SHA-256 over their sorted canonical text: equal for equal sets of rows."""

    rows: int
    sha256: str


def _to_csv(rows: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.csv as csv

    sink = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, quoting_style="all_valid")
    csv.write_csv(_lists_as_json(rows), sink, options)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _lists_as_json(rows: pa.Table) -> pa.Table:
    import pyarrow as pa

    for index, column in enumerate(rows.schema):
        if pa.types.is_list(column.type):
            text = [None if v is None else json.dumps(v) for v in rows.column(index).to_pylist()]
            rows = rows.set_column(index, column.name, pa.array(text, pa.string()))
    return rows


def copy_rows(connection: Any, table: str, rows: pa.Table) -> int:
    """Append *rows* to *table*, by column name; the number of rows."""
    from psycopg import sql

    if rows.num_rows:
        columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
        command = sql.SQL("copy {} ({}) from stdin (format csv)").format(sql.Identifier(table), columns)
        with connection.cursor().copy(command) as copy:
            copy.write(_to_csv(rows))
    return int(rows.num_rows)


def read_back(
    connection: Any,
    table: str,
    schema: Any,
    *,
    columns: Sequence[str] | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
) -> pa.Table:
    """Rows of *table* as PostgreSQL holds them, with the types of *schema* (lists as JSON text).

    *only* reads the rows with one of these values in a column, *columns* these columns alone.
    """
    import pyarrow as pa
    import pyarrow.csv as csv
    from psycopg import sql

    fields = [schema.field(name) for name in columns or schema.names]
    types = {f.name: pa.string() if pa.types.is_list(f.type) else f.type for f in fields}
    names = sql.SQL(", ").join(map(sql.Identifier, types))
    clauses = [
        sql.SQL("{} = any({})").format(sql.Identifier(column), sql.Literal(list(values)))
        for column, values in (only or {}).items()
    ]
    rule = sql.SQL("where ") + sql.SQL(" and ").join(clauses) if clauses else sql.SQL("")
    command = sql.SQL("copy (select {} from {} {}) to stdout (format csv)").format(
        names, sql.Identifier(table), rule
    )
    buffer = io.BytesIO()
    with connection.cursor().copy(command) as copy:
        for piece in copy:
            buffer.write(piece)
    if not buffer.tell():
        return pa.schema(types.items()).empty_table()
    buffer.seek(0)
    return csv.read_csv(
        buffer,
        read_options=csv.ReadOptions(column_names=list(types)),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t", "true"],
            false_values=["f", "false"],
        ),
    )


def fingerprint(table: str, rows: pa.Table) -> Fingerprint:
    """The fingerprint of *rows*, whatever their order; JSON is compared as a document, not as text."""
    import pyarrow as pa

    rows = _lists_as_json(rows)
    documents = json_columns(SCHEMAS[table]) if table in SCHEMAS else ()
    lists = [f.name for f in SCHEMAS[table] if pa.types.is_list(f.type)] if table in SCHEMAS else []
    for name in (*documents, *lists):
        text = [_canonical(value) for value in rows.column(name).to_pylist()]
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(text, pa.string()))
    digest = hashlib.sha256()
    if rows.num_rows:
        order = [(name, "ascending") for name in rows.column_names]
        digest.update(_to_csv(rows.sort_by(order)))
    return Fingerprint(rows.num_rows, digest.hexdigest())


def verify(table: str, sent: pa.Table, stored: pa.Table) -> None:
    """``PublishError`` unless the rows *stored* in the catalog are those that were *sent*."""
    want, found = fingerprint(table, sent), fingerprint(table, stored)
    if found != want:
        raise PublishError(
            f"The catalog's table {table} read back differently from what was sent: {found.rows} rows of "
            f"{want.rows}, checksum {found.sha256[:12]} instead of {want.sha256[:12]}; nothing was published."
        )


def _canonical(text: str | None) -> str | None:
    return None if text is None else json.dumps(json.loads(text), sort_keys=True)
