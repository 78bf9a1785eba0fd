"""Imported figures go into a real PostgreSQL catalog beside measured ones, and rank nowhere."""

from __future__ import annotations

import psycopg

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
from tests.importers.test_importers_store import ALL, CLOSED, NEEDS_LOAD, put
from tests.sql.conftest import dsn, postgres

__all__ = ["dsn", "postgres"]  # fixtures


def test_every_imported_file_is_published_and_none_ranks(local_lake: Lake, dsn: str) -> None:
    count = sum(len(put(local_lake, name, CLOSED if name in NEEDS_LOAD else None)) for name in ALL)
    build_marts(local_lake)
    report = publish(local_lake, dsn)
    assert report.rows["runs"] == count
    with psycopg.connect(dsn) as connection:
        connection.execute("set search_path to accelbench")
        origins = connection.execute("select distinct origin, samples_rows, launcher from runs").fetchall()
        assert origins == [("external", None, "import")]
        assert connection.execute("select count(*) from ranking").fetchone() == (0,)
    assert publish(local_lake, dsn).new_rows["runs"] == 0
