"""The published catalog: succeeded runs, their figures, prices, coverage and views in PostgreSQL, verified before the
commit.

Belongs here: what is sent (append-only runs and prices, replaced facts and marts), the one transaction, reading it
back. Does not belong here: migrations and views (``schema``), COPY and comparison (``copying``), snapshots of prices
(``publish_prices``), the embedded server (``postgres``). Works against any ``postgresql://`` URL of PostgreSQL 15 or
newer.

Everything happens in one transaction: migrations, rows, views, then every table is read back and compared,
value by value, with what was sent (a checksum over sorted rows and their count). Any difference or failure
rolls all of it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from accelbench_assets.errors import PublishError
from accelbench_assets.scrub import scrub
from accelbench_assets.sqlkit.copying import copy_rows, read_back, verify
from accelbench_assets.sqlkit.publish_prices import PRICE_TABLES, send_latest, send_points
from accelbench_assets.sqlkit.schema import apply_migrations, apply_views

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake
    from accelbench_assets.settings import Settings

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 120
LOCK_TIMEOUT_S = 60
ADVISORY_LOCK = 4_713_220_611  # one publisher at a time, whatever it publishes

RUN_TABLES = ("runs", "run_steps", "run_percentiles", "slo_results")
"""Append-only: rows of runs that are not there yet. Order of insertion."""
APPENDED = {
    "supersessions": ("run_id", "at"),
    "annotations": ("run_id", "at"),
}
"""Append-only tables by key."""
REPLACED = ("instance_types", "models", "benchmark_results", "mix_regression", "cell_estimates", "coverage")
"""Facts, replaced whole, and marts, replaced for the runs, deployments or cells of this lake."""
OWN_ROWS = {
    "benchmark_results": "run_id",
    "mix_regression": "deployment",
    "cell_estimates": "cell_id",
    "coverage": "cell_id",
}
"""Several lakes may share a catalog: of these tables each replaces the rows of its own."""
JOINED = ("benchmark_results", "latest_prices", "mix_regression", "instance_types")
"""What ``cost_per_token`` joins: counted after each change, for a plan that is right at once."""


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What stands in the catalog after the commit: rows by table, how many of them are new, all read back."""

    rows: Mapping[str, int] = field(default_factory=dict)
    new_rows: Mapping[str, int] = field(default_factory=dict)
    verified: bool = True


@contextlib.contextmanager
def catalog_dsn(settings: Settings) -> Iterator[str]:
    """The catalog's URL: the one that is set, else that of the embedded server, which runs until the end."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    from accelbench_assets.sqlkit.postgres import EmbeddedPostgres

    with EmbeddedPostgres(settings.home) as server:
        yield server.dsn


def publish(lake: Lake, dsn: str) -> PublishReport:
    """Bring the catalog at *dsn* up to date with the lake, all or nothing.

    A succeeded run is published once its derived rows are in the lake, and never changed again. Raises
    ``PublishError`` in one sentence, without the password; the catalog is then as it was before.
    """
    import psycopg

    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            # With a default of repeatable read the snapshot would be older than the lock that is waited for below.
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.execute(f"set local statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
            connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.execute("set local timezone = 'UTC'")
            connection.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            apply_migrations(connection)
            report = _send(connection, lake)
            apply_views(connection)
        return report
    except psycopg.Error as error:
        raise _one_sentence(error, dsn) from None


def _send(connection: Any, lake: Lake) -> PublishReport:
    rows = _rows(lake)
    there = {row[0] for row in connection.execute("select run_id from runs")}
    mine = sorted(set(rows["runs"].column("run_id").to_pylist()))
    new_runs = sorted(set(mine) - there)
    own = {
        table: mine if column == "run_id" else sorted(set(rows[table].column(column).to_pylist()))
        for table, column in OWN_ROWS.items()
    }
    sent: dict[str, pa.Table] = {}
    for table in RUN_TABLES:
        sent[table] = _where(rows[table], "run_id", new_runs)
    for table, key in APPENDED.items():
        known = set(_keys(read_back(connection, table, rows[table].schema, columns=key), key))
        sent[table] = _choose(rows[table], [k not in known for k in _keys(rows[table], key)])
    for table in REPLACED:
        sent[table] = rows[table]
        if column := OWN_ROWS.get(table):
            connection.execute(f"delete from {table} where {column} = any(%s)", (own[table],))  # noqa: S608 - ours
            sent[table] = _where(rows[table], column, own[table])
        else:
            connection.execute(f"delete from {table}")  # noqa: S608 - a name of ours
    for table, fresh in sent.items():
        copy_rows(connection, table, fresh)
    totals, new_rows = {}, {table: fresh.num_rows for table, fresh in sent.items()}
    for table, fresh in sent.items():
        only = {"run_id": new_runs} if table in RUN_TABLES else {}
        if column := OWN_ROWS.get(table):
            only = {column: own[table]}
        stored = read_back(connection, table, fresh.schema, only=only)
        if table in APPENDED:
            keys = set(_keys(fresh, APPENDED[table]))
            stored = _choose(stored, [k in keys for k in _keys(stored, APPENDED[table])])
        verify(table, fresh, stored)
        totals[table] = _count(connection, table)
    new_rows["price_points"] = send_points(connection, lake, copy_rows)
    new_rows["latest_prices"] = send_latest(connection, lake, copy_rows)
    totals |= {table: _count(connection, table) for table in PRICE_TABLES}
    for table in JOINED:
        connection.execute(f"analyze {table}")
    return PublishReport(totals, new_rows)


def _rows(lake: Lake) -> dict[str, pa.Table]:
    """All that the lake has to publish but prices. Only runs whose derived rows are complete: the others come next
    time.
    """
    import duckdb

    from accelbench_assets.sqlkit.duck import connect

    complete = "select distinct run_id from run_steps where run_id in (select run_id from run_percentiles)"
    names = (*RUN_TABLES, *APPENDED, *REPLACED)
    try:
        with connect(lake, only=names) as source:
            queries = {name: f"select * from {name}" for name in names}  # noqa: S608 - names of ours
            for name in RUN_TABLES:
                queries[name] += f" where run_id in ({complete})"
            queries["runs"] += " and status = 'succeeded'"
            return {name: source.sql(text).to_arrow_table() for name, text in queries.items()}
    except duckdb.Error as error:
        raise PublishError(f"The lake {lake.url} could not be read: {str(error).splitlines()[0]}") from None


def _where(rows: pa.Table, column: str, values: list[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows.column(column), value_set=pa.array(values, pa.string())))


def _choose(rows: pa.Table, mask: list[bool]) -> pa.Table:
    import pyarrow as pa

    return rows.filter(pa.array(mask, pa.bool_()))


def _keys(rows: pa.Table, key: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(rows.column(name).to_pylist() for name in key), strict=True))


def _count(connection: Any, table: str) -> int:
    return int(connection.execute(f"select count(*) from {table}").fetchone()[0])  # noqa: S608 - a name of ours


def _one_sentence(error: Exception, dsn: str) -> PublishError:
    """*error* of the database as a ``PublishError`` that names the server and holds no secret."""
    import psycopg

    try:
        parts = urlsplit(dsn)
        where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
        secrets = [unquote(parts.password)] if parts.password else []
    except ValueError:
        return PublishError(
            "The database URL cannot be read; write postgresql://user:password@host:port/database."
        )
    text = scrub(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, secrets)
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return PublishError(f"PostgreSQL at {where} did not answer in time ({text}); nothing was published.")
    if isinstance(error, psycopg.errors.IntegrityError):
        return PublishError(f"PostgreSQL at {where} refused a malformed row: {text}; nothing was published.")
    if isinstance(error, psycopg.OperationalError):
        kind = "refused the login" if "authentication failed" in str(error) else "cannot be used"
        return PublishError(
            f"PostgreSQL at {where} {kind}: {text}; nothing was published.",
            hint="Check ACCELBENCH_DATABASE_URL and that the server is up.",
        )
    return PublishError(f"PostgreSQL at {where} refused: {text}; nothing was published.")
