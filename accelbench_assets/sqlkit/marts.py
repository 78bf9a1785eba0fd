"""Building marts: run one SQL file over the lake and keep the result as Parquet.

Belongs here: running ``sql/marts/*.sql`` and writing ``marts/<name>/``. Does not belong here: the queries.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from accelbench_assets.errors import LakeError
from accelbench_assets.sqlkit.duck import MART_HASH, connect
from accelbench_assets.sqlkit.files import sql_file, sql_files, table_names

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake


def build_mart(lake: Lake, name: str) -> pa.Table:
    """Run the mart *name* and replace it in the lake; returns its rows.

    It reads the marts it depends on as they are in the lake, so build those first (:func:`build_marts` does).
    Raises ``LakeError`` when the lake cannot be read or written.
    """
    import duckdb

    file = sql_file("marts", name)
    with contextlib.closing(connect(lake, read_only=False, only=table_names(file.text))) as connection:
        try:
            rows: pa.Table = connection.sql(file.text).to_arrow_table()
        except duckdb.Error as error:
            raise LakeError(f"Mart {name} could not be built: {str(error).splitlines()[0]}") from None
    rows = rows.replace_schema_metadata({MART_HASH: file.sha256, "mart": name})
    lake.write_mart(name, rows)
    return rows


def build_marts(lake: Lake) -> dict[str, int]:
    """Build every mart in order of dependency; rows by name."""
    return {file.name: build_mart(lake, file.name).num_rows for file in sql_files("marts")}
