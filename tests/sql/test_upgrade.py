"""A catalog of an older release, with another lake's rows in it: brought up to date, they count as they did."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit import schema
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
from tests.sql.cost_lake import put_steps
from tests.sql.test_limits import step
from tests.support.runs import make_cell, make_record, put_run

pytestmark = pytest.mark.xdist_group("postgres")
TABLES = ("runs", "run_steps", "run_percentiles", "slo_results", "benchmark_results")
UNSOUND = ({"error_rate": 0.02}, {"error_rate": None}, {"steady": False}, {"saturation_label": "unstable"})


def test_results_of_a_lake_that_is_not_published_again_stay_eligible(
    local_lake: Lake, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Lake.open((tmp_path / "other").as_uri())
    for number, change in enumerate(({}, {"steady": None}, *UNSOUND)):
        record = make_record(make_cell(model=f"m{number}"))
        put_steps(other, record, [step("closed", 1, 1.0), step("open", 2, 2.0) | change])
    build_marts(other)
    publish(other, dsn)
    older = tmp_path / "older"
    shutil.copytree(schema.SQL_DIR / "migrations", older / "migrations")
    (older / "migrations" / "0004_costs.sql").unlink()
    with psycopg.connect(dsn) as connection, monkeypatch.context() as patch:
        connection.execute("alter schema accelbench rename to wanted")
        patch.setattr(schema, "SQL_DIR", older)
        assert schema.apply_migrations(connection)[-1] == "0003_budget"
        for table in TABLES:
            columns = ", ".join(
                row[0]
                for row in connection.execute(
                    "select column_name from information_schema.columns "
                    "where table_schema = 'accelbench' and table_name = %s",
                    (table,),
                )
            )
            connection.execute(f"insert into {table} ({columns}) select {columns} from wanted.{table}")
    put_run(local_lake, make_record(make_cell(model="ours")))
    build_marts(local_lake)
    publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        for view in ("benchmark_results", "reporting_points"):
            texts = (
                f"select * from {name}.{view} where model <> 'ours'" for name in ("wanted", "accelbench")
            )
            wanted, found = ({str(row) for row in connection.execute(text)} for text in texts)
            assert found == wanted, view
        open_steps = "select deployment, is_sound from accelbench.benchmark_results where load_kind = 'open'"
        sound = [row[1] for row in connection.execute(open_steps)]
        assert (sound.count(True), sound.count(False)) == (2, len(UNSOUND))
