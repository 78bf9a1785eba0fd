"""Reading and writing the lake's files: JSON records, Parquet tables, the registry of cells.

Belongs here: runs records as JSON and as an Arrow table, samples, derived tables, facts, cells.
Does not belong here: which key holds what (``layout``), the order of writes that makes a commit safe
(``commit``), where bytes lie (``storage``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import layout
from accelbench_assets.lake.storage import MissingKeyError, Storage
from accelbench_assets.lake.tables import (
    FACT_TABLES,
    JUDGEMENT_TABLES,
    RUN_TABLES,
    SCHEMA_VERSION,
    SCHEMAS,
    json_columns,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds


READ_THREADS = 16

_T = TypeVar("_T")
_K = TypeVar("_K")


# -- JSON ----------------------------------------------------------------------------------------------------


def dump_json(document: Any) -> bytes:
    """JSON bytes; NaN and infinities become null, datetimes ISO-8601."""
    import orjson

    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def read_json(storage: Storage, key: str) -> Any:
    """A JSON document; ``MissingKeyError`` if absent, ``LakeError`` if it is not JSON."""
    import orjson

    try:
        return orjson.loads(storage.read(key))
    except orjson.JSONDecodeError as error:
        raise LakeError(f"{storage.url}/{key} is not valid JSON ({error}).") from None


def in_parallel(function: Callable[[_K], _T], keys: Iterable[_K], storage: Storage) -> Iterator[_T]:
    """*function* over *keys*, in order; with threads where each read is a round trip."""
    if storage.url.startswith("file:"):
        yield from map(function, keys)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from pool.map(function, keys)


# -- runs ----------------------------------------------------------------------------------------------------


def _run_keys(storage: Storage) -> list[str]:
    # UUIDv7 ids sort by time, so the newest comes first without reading any record.
    keys = [k for k in storage.list("runs") if k.endswith(".json")]
    return sorted(keys, key=lambda k: k.rsplit("run_id=", 1)[-1], reverse=True)


def read_runs(storage: Storage, limit: int | None = None) -> list[dict[str, Any]]:
    """Runs records, newest first. Seam: a compacted Parquet index of closed days can be read here instead."""
    return list(in_parallel(lambda key: read_json(storage, key), _run_keys(storage)[:limit], storage))


def find_run(storage: Storage, text: str) -> dict[str, Any] | None:
    """The record of a run by id, unique prefix, or unique suffix of at least 4 characters."""
    if not layout.is_run_id(text):
        return None
    try:
        found: dict[str, Any] = read_json(storage, layout.run_key(text))
        return found
    except MissingKeyError:
        pass
    matches = []
    for key in _run_keys(storage):
        run_id = key.rsplit("run_id=", 1)[-1].removesuffix(".json")
        if run_id.startswith(text) or (len(text) >= 4 and run_id.endswith(text)):
            matches.append(key)
    if len(matches) > 1:
        raise LakeError(f"{text!r} matches {len(matches)} runs.", hint="Give more characters of the run id.")
    return read_json(storage, matches[0]) if matches else None


def runs_table(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Runs records as a table with the schema of ``runs``; JSON fields become JSON text.

    Raises ``LakeError`` naming the run and field whose value does not fit.
    """
    return table_from_rows("runs", records)


def table_from_rows(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Mappings by column name as a table with the schema of *table*; missing keys are null, unknown keys
    dropped.

    Accepts ISO-8601 text for timestamps and objects for JSON columns. ``LakeError`` names the row and column.
    """
    import pyarrow as pa

    schema, rows = SCHEMAS[table], list(rows)
    as_json = set(json_columns(schema))
    columns = []
    for field in schema:
        convert = _converter(field, field.name in as_json)
        values: list[Any] = []
        try:
            for row in rows:
                value = row.get(field.name)
                values.append(None if value is None else convert(value))
            column = pa.array(values, field.type)
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError) as error:
            at = rows[min(len(values), len(rows) - 1)].get("run_id", "?")
            raise LakeError(f"{table}: column {field.name} of row {at} does not fit ({error}).") from None
        if not field.nullable and column.null_count:
            at = rows[values.index(None)].get("run_id", "?")
            raise LakeError(f"{table}: column {field.name} of row {at} is missing.")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _converter(field: Any, as_json: bool) -> Callable[[Any], Any]:
    import decimal

    import orjson
    import pyarrow as pa

    if as_json:
        return lambda v: v if isinstance(v, str) else orjson.dumps(v, option=orjson.OPT_SORT_KEYS).decode()
    if pa.types.is_timestamp(field.type):
        return lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v
    if pa.types.is_decimal(field.type):
        scale = decimal.Decimal(1).scaleb(-field.type.scale)
        return lambda v: decimal.Decimal(str(v)).quantize(scale)
    if pa.types.is_floating(field.type):
        return float
    if pa.types.is_string(field.type):
        return str
    return lambda v: v


# -- Parquet -------------------------------------------------------------------------------------------------


def parquet_bytes(table: str | None, data: pa.Table) -> bytes:
    """*data* as a Parquet file, cast to the schema of *table* (``None``: as it is, for marts).

    Raises ``LakeError`` when a column is missing, of another kind, or null where it must not be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table is None:
        data = data.replace_schema_metadata(
            {**(data.schema.metadata or {}), "schema_version": SCHEMA_VERSION}
        )
    else:
        schema = SCHEMAS[table]
        try:
            data = data.select(schema.names).cast(schema)
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise LakeError(f"The rows do not fit table {table}: {error}.") from None
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, compression="zstd")
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _read_parquet(storage: Storage, keys: list[str], schema: Any | None) -> pa.Table:
    """Files of one table, concatenated in order; columns a file lacks are null (an older schema)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def one(key: str) -> pa.Table:
        try:
            return pq.ParquetFile(pa.BufferReader(storage.read(key))).read()
        except (pa.ArrowException, OSError) as error:
            raise LakeError(f"{storage.url}/{key} cannot be read as Parquet ({error}).") from None

    tables = list(in_parallel(one, keys, storage))
    if schema is None:
        return pa.concat_tables(tables, promote_options="default")
    fitted = [_fit(table, schema) for table in tables]
    return pa.concat_tables(fitted) if fitted else schema.empty_table()


def _fit(table: pa.Table, schema: Any) -> pa.Table:
    import pyarrow as pa

    columns = [
        table.column(f.name).cast(f.type)
        if f.name in table.column_names
        else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def read_incoming(storage: Storage, run_id: str) -> pa.Table:
    """All samples below ``_incoming/run_id=…``."""
    keys = [k for k in storage.list(layout.incoming_folder(run_id)) if k.endswith(".parquet")]
    return _read_parquet(storage, keys, SCHEMAS["raw_samples"])


def read_samples(storage: Storage, run_id: str) -> pa.Table:
    """Committed samples of one run."""
    return _read_parquet(storage, _sample_keys(storage, run_id), SCHEMAS["raw_samples"])


def _sample_keys(storage: Storage, run_id: str) -> list[str]:
    record = find_run(storage, run_id)
    if record is None or record["status"] != "succeeded":
        what = "has no record" if record is None else f"ended as {record['status']}"
        raise LakeError(f"Run {run_id} {what}, so it has no published samples.")
    return sorted(k for k in storage.list(layout.run_folder("raw_samples", record)) if k.endswith(".parquet"))


def sample_dataset(storage: Storage, run_id: str) -> ds.Dataset:
    """Committed samples of one run as a dataset, part by part in the order of their names."""
    import pyarrow.dataset as ds

    keys = _sample_keys(storage, run_id)
    filesystem, base = storage.arrow()
    paths = [f"{base}/{key}" for key in keys]
    try:
        return ds.dataset(paths, schema=SCHEMAS["raw_samples"], format="parquet", filesystem=filesystem)
    except OSError as error:
        raise LakeError(f"The samples of run {run_id} cannot be read ({error}).") from None


def read_run_table(storage: Storage, table: str, key: str) -> pa.Table:
    """The file *key* of a table of runs; empty where it was not written."""
    return _read_parquet(storage, [key] if storage.exists(key) else [], SCHEMAS[table])


def published_keys(storage: Storage, table: str, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Parquet files of a table of runs that belong to the succeeded runs among *records*."""
    chosen = {r["run_id"] for r in records if r["status"] == "succeeded"}
    return [
        key
        for key in storage.list(table)
        if key.endswith(".parquet") and key.rsplit("run_id=", 1)[-1].split("/", 1)[0] in chosen
    ]


def read_table(storage: Storage, name: str) -> pa.Table:
    """A whole table or mart; see ``Lake.read_table``."""
    if name == "runs":
        return runs_table(read_runs(storage))
    if name == "cells":
        return cells_table(storage)
    if name in (*RUN_TABLES, "raw_samples"):
        return _read_parquet(storage, published_keys(storage, name, read_runs(storage)), SCHEMAS[name])
    if name in (*FACT_TABLES, *JUDGEMENT_TABLES):
        keys = [k for k in storage.list(layout.dated_folder(name)) if k.endswith(".parquet")]
        return _read_parquet(storage, keys, SCHEMAS[name])
    keys = [k for k in storage.list(f"marts/{name}") if k.endswith(".parquet")]
    if not keys:
        raise LakeError(f"There is no table or mart {name!r} in the lake {storage.url}.")
    return _read_parquet(storage, keys, None)


# -- cells ---------------------------------------------------------------------------------------------------


def cells_table(storage: Storage) -> pa.Table:
    """Registered cells with the parts of their keys, for SQL."""
    from accelbench_assets.lake import registry

    return table_from_rows("cells", [entry.parts() for entry in registry.read_entries(storage)])
