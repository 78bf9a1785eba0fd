"""Building marts: run one SQL file over the lake and keep the result as Parquet.

Belongs here: running ``sql/marts/*.sql`` and writing ``marts/<name>/``. Does not belong here: the queries.
"""

from __future__ import annotations

import contextlib
from datetime import date
from typing import TYPE_CHECKING

from accelbench_assets.errors import LakeError
from accelbench_assets.sqlkit.duck import MART_HASH, connect
from accelbench_assets.sqlkit.files import SqlFile, sql_file, sql_files, table_names
from accelbench_assets.sqlkit.prices import LATEST

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake


PREVIEW_ROWS = 1000
"""Rows that :func:`build_mart` returns of a mart that is not stored."""
ROWS = b"rows"
"""Metadata key of what :func:`build_mart` returns of such a mart: how many rows it has."""


def build_mart(lake: Lake, name: str) -> pa.Table:
    """Run the mart *name* and replace it in the lake; returns its rows.

    It reads the marts it depends on as they are in the lake, so build those first (:func:`build_marts` does).
    ``latest_prices`` reads the last day's snapshots alone. A mart that is not stored is only tried: its first rows are
    returned, and their metadata say under ``rows`` how many there are.
    Raises ``LakeError`` when the lake cannot be read or written.
    """
    import duckdb

    file = sql_file("marts", name)
    reads = table_names(file.text)
    until = date.max if name == LATEST else None
    with contextlib.closing(connect(lake, read_only=False, only=reads, as_of=until)) as connection:
        try:
            if not file.stored:
                return _tried(connection, file)
            rows: pa.Table = connection.sql(file.text).to_arrow_table()
        except duckdb.Error as error:
            raise LakeError(f"Mart {name} could not be built: {str(error).splitlines()[0]}") from None
    rows = rows.replace_schema_metadata({MART_HASH: file.sha256, "mart": name})
    lake.write_mart(name, rows)
    return rows


def _tried(connection: duckdb.DuckDBPyConnection, file: SqlFile) -> pa.Table:
    connection.execute(f"create view tried as {file.text}")
    ((count,),) = connection.execute("select count(*) from tried").fetchall()
    rows: pa.Table = connection.sql(f"select * from tried limit {PREVIEW_ROWS}").to_arrow_table()  # noqa: S608
    return rows.replace_schema_metadata({ROWS: str(count), "mart": file.name})


def row_count(rows: pa.Table) -> int:
    """How many rows the mart has of which :func:`build_mart` returned *rows*."""
    return int((rows.schema.metadata or {}).get(ROWS, rows.num_rows))


def build_marts(lake: Lake) -> dict[str, int]:
    """Build every mart in order of dependency; rows by name."""
    return {file.name: row_count(build_mart(lake, file.name)) for file in sql_files("marts")}
