"""The same rows in DuckDB and in PostgreSQL, and every portable query run on both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit.copying import copy_rows
from accelbench_assets.sqlkit.dialect import to_postgres
from accelbench_assets.sqlkit.duck import connect
from accelbench_assets.sqlkit.files import SqlFile, files_as_written, in_order

SCHEMA = "mirror"
BASE = ("runs", "cells", "benchmark_results", "price_points", "instance_types", "cell_estimates")
"""What the portable queries start from; ``benchmark_results`` reads JSON, so it is made by DuckDB alone."""
_TYPES = {
    pa.string(): "text",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
}


def portable() -> list[SqlFile]:
    """Every mart and view but the one that is not portable, in order of dependency."""
    files = in_order([*files_as_written("marts"), *files_as_written("views")])
    return [file for file in files if file.name != "benchmark_results"]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision}, {kind.scale})"
    return "jsonb" if pa.types.is_list(kind) else _TYPES[kind]


def mirror(dsn: str, tables: Mapping[str, pa.Table]) -> psycopg.Connection[dict[str, Any]]:
    """A connection to PostgreSQL with *tables* (else empty) and every portable query as a view over them."""
    absent = {name: SCHEMAS[name].empty_table() for name in BASE if name in SCHEMAS}
    connection: Any = psycopg.connect(dsn, row_factory=psycopg.rows.dict_row)
    connection.execute("set timezone = 'UTC'")
    connection.execute(f"create schema {SCHEMA}")
    connection.execute(f"set search_path to {SCHEMA}")
    for name, rows in (absent | dict(tables)).items():
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(_type(f.type))) for f in rows.schema
        )
        connection.execute(sql.SQL("create table {} ({})").format(sql.Identifier(name), columns))
        copy_rows(connection, name, rows)
    for file in portable():
        connection.execute(f"create view {file.name} as {to_postgres(file.text)}")
    return connection  # type: ignore[no-any-return]


def on_both(lake: Lake, dsn: str) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rows of every portable query over *lake*, on DuckDB and on PostgreSQL."""
    names = [file.name for file in portable()]
    with connect(lake, only=(*names, *BASE)) as duck:
        tables = {name: duck.sql(f"select * from {name}").to_arrow_table() for name in BASE}
        ours = {name: duck.sql(f"select * from {name}").to_arrow_table().to_pylist() for name in names}
    with mirror(dsn, tables) as postgres:
        return {name: (ours[name], postgres.execute(f"select * from {name}").fetchall()) for name in names}


def _comparable(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (value is None, str(value) if not isinstance(value, float) else f"{value:.6g}")
        for value in row.values()
    )


def check_same(left: list[dict[str, Any]], right: list[dict[str, Any]], what: str) -> None:
    """The rows are equal in any order, floats to a relative 1e-9."""
    assert len(left) == len(right) > 0, what
    for one, other in zip(sorted(left, key=_comparable), sorted(right, key=_comparable), strict=True):
        assert list(one) == list(other), what
        for column, value in one.items():
            if isinstance(value, float) and other[column] is not None:
                assert math.isclose(value, other[column], rel_tol=1e-9, abs_tol=1e-12), f"{what}.{column}"
            else:
                assert value == other[column], f"{what}.{column}"
