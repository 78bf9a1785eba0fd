"""DuckDB over the lake: one in-memory connection with every table, mart and view attached.

Belongs here: attaching Parquet and records as views, on a folder or on S3; running a user's query.
Does not belong here: what the queries say (``sql/``), building marts (``marts``).

Tables of runs are semi-joined with succeeded runs, so that half a run cannot be seen. Facts show the newest
row of each key. A mart that was not built yet, or from another text, or is never stored, is attached as its query,
computed when read; what a built mart was made of is then not even opened.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from accelbench_assets.errors import LakeError, UsageError
from accelbench_assets.lake import layout
from accelbench_assets.lake.tables import FACT_TABLES, JUDGEMENT_TABLES, RUN_TABLES, SCHEMAS
from accelbench_assets.sqlkit.files import SqlFile, files_as_written, in_order, sql_files
from accelbench_assets.sqlkit.prices import files_of, price_files

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

MART_HASH = "sql_sha256"
"""Parquet metadata key of a mart: hash of the query it was built from."""

Limits = Mapping[str, str | int]
"""Settings of DuckDB by name, such as ``memory_limit`` and ``threads``."""

_EMPTY = "empty_tables"
_NEWEST = {
    "instance_types": (
        "instance_type",
        "as_of desc nulls last, asked_at desc nulls last, regions desc nulls last",
    ),
    "models": ("model_id, revision", "fetched_at desc nulls last"),
    # Rows of one id are alike. The other columns let a filter on them reach the files.
    "price_points": (
        "price_point_id, snapshot_id, provider, region, instance_type, tier, payment_option",
        "fetched_at desc nulls last",
    ),
    "cell_estimates": ("cell_id", "as_of desc nulls last, inputs_sha256"),
    "supersessions": ('run_id, superseded_by, "at"', "author desc nulls last"),
    "annotations": ('run_id, text, "at"', "author desc nulls last"),
}
_LOOKS_AROUND = re.compile(r"\b(show|describe|summarize|information_schema|duckdb_\w+|pragma\w*)\b", re.I)


def open_duckdb(limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """An empty connection as all of ours are: in memory, clocks in UTC, spilling to the temporary folder."""
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'")
    connection.execute(f"set temp_directory = '{_quoted(tempfile.gettempdir())}/accelbench-duckdb'")
    for name, value in (limits or {}).items():
        connection.execute(f"set {name} = '{_quoted(str(value))}'")
    connection.execute(f"create schema {_EMPTY}")
    return connection


def connect(
    lake: Lake,
    *,
    read_only: bool = True,
    only: Collection[str] | None = None,
    as_of: date | None = None,
    rules: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection with every table, mart and view; those not written yet are empty and typed.

    *read_only* shuts the connection off from every file outside the lake, for good. *only* attaches just
    these and what they read. *as_of* shows the prices that were known at the end of that UTC day: ``price_points``
    then holds the last day's snapshots up to it, and ``latest_prices`` is computed of them. *rules* narrows marts by a
    ``where`` clause each (a text of ours: what a user typed goes through ``prices.literal``). *limits* are settings of
    DuckDB. Raises ``LakeError`` when the lake cannot be read. Close it when done.
    """
    import duckdb

    connection = open_duckdb(limits)
    rules = rules or {}
    try:
        built = _built_marts(lake, only, as_of)
        wanted = None if only is None else _closure(only, built)
        # Who asks for the latest prices alone need not have the whole history opened.
        last_day = as_of is not None or (only is not None and "price_points" not in only)
        prices = (files_of(lake, as_of) if last_day else price_files(lake)) if _asks(wanted) else []
        _attach_tables(connection, lake, wanted, prices)
        _attach_queries(connection, lake, wanted, built, rules)
        if read_only:
            if folder := _folder(lake):
                connection.execute(f"set allowed_directories = ['{_quoted(folder)}/']")
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise LakeError(f"The lake {lake.url} cannot be queried: {_first_line(error)}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def query(lake: Lake, text: str) -> pa.Table:
    """The rows of one ``select`` (or ``show``, ``describe``, ``explain``) over the lake.

    Raises ``UsageError`` for anything else and for a query DuckDB refuses, ``LakeError`` when the lake cannot
    be read.
    """
    import duckdb

    only = None if _LOOKS_AROUND.search(text) else set(re.findall(r"\w+", text.lower())) & _known()
    with contextlib.closing(connect(lake, only=only)) as connection:
        try:
            statements = connection.extract_statements(text)
            kinds = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
            if len(statements) != 1 or statements[0].type not in kinds:
                raise UsageError(
                    "Only one select can be run over the lake.", hint="Nothing in it is ever changed by SQL."
                )
            return connection.sql(text).to_arrow_table()
        except duckdb.IOException as error:
            raise LakeError(f"The lake {lake.url} could not be read: {_first_line(error)}") from None
        except duckdb.Error as error:
            if "TProtocolException" in str(error):  # pages, behind a sound footer
                raise LakeError(
                    f"A Parquet file of the lake {lake.url} is damaged: {_first_line(error)}"
                ) from None
            raise UsageError(f"The query was refused: {_first_line(error)}") from None


def _known() -> set[str]:
    return {*SCHEMAS, *(f.name for f in sql_files("marts")), *(f.name for f in sql_files("views"))}


def _queries() -> dict[str, SqlFile]:
    return {f.name: f for kind in ("marts", "views") for f in files_as_written(kind)}


def _closure(names: Collection[str], built: Collection[str] = ()) -> set[str]:
    """*names* and everything they read; what a mart in *built* was made of is left out."""
    queries = _queries()
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += queries[name].depends_on if name in queries and name not in built else ()
    return found | {"runs"} if found & {*RUN_TABLES, "raw_samples"} else found


def _keep(connection: duckdb.DuckDBPyConnection, name: str, rows: Any) -> None:
    """A table with *rows*, DuckDB's own copy, so that nothing but named tables shows in listings."""
    connection.register("_given", rows)
    connection.execute(f"create table {name} as select * from _given")  # noqa: S608
    connection.unregister("_given")


def _folder(lake: Lake) -> str | None:
    """The lake's folder, or ``None`` if it lies elsewhere."""
    parts = urlsplit(lake.url)
    return unquote(parts.path) if parts.scheme == "file" else None


def _asks(wanted: set[str] | None, name: str = "price_points") -> bool:
    return wanted is None or name in wanted


def _attach_tables(
    connection: duckdb.DuckDBPyConnection, lake: Lake, wanted: set[str] | None, prices: Sequence[str]
) -> None:
    for name in ("runs", "cells"):
        if _asks(wanted, name):
            _keep(connection, name, lake.read_table(name))
    for name in (*RUN_TABLES, "raw_samples"):
        if _asks(wanted, name):
            rule = "where run_id in (select run_id from runs where status = 'succeeded')"
            _attach_parquet(
                connection, lake, name, f"{name}/family=*/cell_id=*/run_id=*/part-*.parquet", rule
            )
    for name in (*FACT_TABLES, *JUDGEMENT_TABLES):
        if _asks(wanted, name):
            keys, order = _NEWEST[name]
            rule = f"qualify row_number() over (partition by {keys} order by {order}) = 1"
            if name == "price_points":
                attach_files(connection, lake, name, SCHEMAS[name], prices, rule)
                continue
            _attach_parquet(
                connection, lake, name, f"{layout.dated_folder(name)}/date=*/part-*.parquet", rule
            )


def attach_files(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    name: str,
    schema: Any,
    keys: Sequence[str],
    rule: str = "",
) -> None:
    """A view *name* over the files *keys*, typed by *schema*; *rule* follows the ``from``."""
    folder = _folder(lake)
    if not keys:
        files = None
    elif folder:
        paths = ", ".join(f"'{_quoted(folder)}/{_quoted(key)}'" for key in keys)
        files = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    else:
        files = f"_{name}_files"
        connection.register(files, _dataset(lake, list(keys), _plain(schema)))
    _attach_typed(connection, name, schema, files, rule)


def _attach_typed(
    connection: duckdb.DuckDBPyConnection, name: str, schema: Any, files: str | None, rule: str
) -> None:
    """A view with the columns of *schema*, null where a file of an older one lacks a column."""
    empty = f"{_EMPTY}.{name}"
    _keep(connection, empty, _plain(schema).empty_table())
    rows = f"(select * from {empty} union all by name select * from {files})" if files else empty  # noqa: S608
    columns = ", ".join(f'"{field.name}"' for field in schema)
    connection.execute(f"create view {name} as select {columns} from {rows} {rule}")  # noqa: S608


def _attach_parquet(
    connection: duckdb.DuckDBPyConnection, lake: Lake, name: str, pattern: str, rule: str
) -> None:
    """A view over the files of *pattern*."""
    if not (folder := _folder(lake)):
        prefix = pattern.split("=", 1)[0].rsplit("/", 1)[0]
        keys = [key for key in lake.storage.list(prefix) if _is_part(key)]
        attach_files(connection, lake, name, SCHEMAS[name], keys, rule)
        return
    files = None
    if _any_match(Path(folder), pattern):
        files = (
            f"read_parquet('{_quoted(folder)}/{pattern}', union_by_name = true, hive_partitioning = false)"
        )
    _attach_typed(connection, name, SCHEMAS[name], files, rule)


def _any_match(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _is_part(key: str) -> bool:
    return key.endswith(".parquet") and key.rsplit("/", 1)[-1].startswith("part-")


def _dataset(lake: Lake, keys: list[str], schema: Any) -> Any:
    """Files on S3 for DuckDB: Arrow reads them, with the columns and filters the query needs."""
    import pyarrow.dataset as ds

    filesystem, base = lake.storage.arrow()
    paths = [f"{base}/{key}" for key in keys]
    try:
        return ds.dataset(paths, schema=schema, format="parquet", filesystem=filesystem)
    except OSError as error:
        raise LakeError(f"The lake {lake.url} could not be read: {_first_line(error)}") from None


def _plain(schema: Any) -> Any:
    """*schema* with dictionary columns as their values: an empty ENUM would not take them."""
    import pyarrow as pa

    return pa.schema(
        pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema
    )


def _attach_queries(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    wanted: set[str] | None,
    built: Mapping[str, Any],
    rules: Mapping[str, str],
) -> None:
    for file in in_order([*files_as_written("marts"), *files_as_written("views")]):
        if wanted is not None and file.name not in wanted:
            continue
        rule = rules.get(file.name, "")
        if file.name not in built:
            text = f"select * from ({file.text}) {rule}" if rule else file.text  # noqa: S608
            connection.execute(f"create view {file.name} as {text}")
            continue
        if folder := _folder(lake):
            rows = f"read_parquet('{_quoted(folder)}/{_mart_key(file.name)}')"
        else:
            rows = f"_{file.name}_files"
            connection.register(rows, _dataset(lake, [_mart_key(file.name)], built[file.name]))
        connection.execute(f"create view {file.name} as select * from {rows} {rule}")  # noqa: S608


def _mart_key(name: str) -> str:
    return f"marts/{name}/part-0.parquet"


def _built_marts(lake: Lake, only: Collection[str] | None, as_of: date | None) -> dict[str, Any]:
    """Schemas of the marts in the lake that were built from the query as it is now, and whose prices are asked for."""
    built = {}
    columnar = lake.storage.arrow()
    reachable = None if only is None else _closure(only)
    for file in sql_files("marts"):
        if not file.stored or (reachable is not None and file.name not in reachable):
            continue
        if as_of is not None and "price_points" in _closure(file.depends_on):
            continue
        schema = _mart_schema(lake, columnar, _mart_key(file.name))
        if schema is not None and (schema.metadata or {}).get(MART_HASH.encode()) == file.sha256.encode():
            built[file.name] = schema
    return built


def _mart_schema(lake: Lake, columnar: tuple[Any, str], key: str) -> pa.Schema | None:
    """The schema of a built mart; ``None`` if there is none, or none can be read: then it is computed anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not lake.storage.exists(key):
        return None
    filesystem, base = columnar
    try:
        with filesystem.open_input_file(f"{base}/{key}") as source:
            return pq.read_schema(source)
    except (pa.ArrowException, OSError, UnicodeDecodeError):  # by where the footer is damaged
        return None


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
