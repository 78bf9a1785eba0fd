"""Publishing: all or nothing, append-only, read back, and one clear sentence when it cannot be done."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from accelbench_assets.errors import PublishError
from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit import copying, publish, schema
from accelbench_assets.sqlkit.marts import build_marts
from tests.support.runs import attempt, make_cell, make_price, make_record, put_prices, put_run, write_derived

pytestmark = pytest.mark.xdist_group("postgres")
TABLES = (*publish.RUN_TABLES, *publish.APPENDED, *publish.REPLACED, *publish.PRICE_TABLES)


def count(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        return {t: connection.execute(f"select count(*) from accelbench.{t}").fetchone()[0] for t in TABLES}  # type: ignore[index]


def fill(lake: Lake) -> dict[str, Any]:
    """One run with text of every trap, prices with and without a price, facts with lists."""
    nasty = 'a "quoted", comma,\nnew line, \\. backslash, tab\t, é 漢, empty next'
    record = make_record(
        requested_by="",
        failure_text=nasty,
        engine_args={"b": [1, 2.5, None], "a": nasty},
        env={"NULL": "\\N"},
    )
    put_run(lake, record)
    lake.put_cell(make_cell())
    put_prices(lake, [make_price("local-1a2b3c4d", "0.1234567891", tier="declared"),
                      make_price("g5.xlarge", None, missing_reason="no offer")])  # fmt: skip
    rows = [
        {
            "instance_type": "g5.xlarge",
            "family": "g5",
            "accelerator_count": 1,
            "regions": ["us-east-1", "eu-west-1"],
        }
    ]
    lake.write_fact("instance_types", "2026-11-01", table_from_rows("instance_types", rows))
    models = [{"model_id": "m", "revision": "1", "parameters": 8_000_000_000, "gated": False}]
    lake.write_fact("models", "2026-11-01", table_from_rows("models", models))
    known = {"cell_id": "c", "as_of": "2026-11-01T00:00:00Z", "region": "us-east-1", "state": "estimated",
             "reason": "so", "concurrency": 8, "requests_per_s": 2.0, "requests_per_s_low": 1.0,
             "requests_per_s_high": 4.0, "measured_runs": 0, "usd_per_hour": "1.8610000001",
             "inputs_sha256": "0" * 64}  # fmt: skip
    lake.write_fact("cell_estimates", "2026-11-01", table_from_rows("cell_estimates", [known]))
    note = [{"run_id": record["run_id"], "text": "first", "at": "2026-11-02T00:00:00.123456Z"}]
    lake.write_fact("annotations", "2026-11-02", table_from_rows("annotations", note))
    build_marts(lake)
    return record


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """For tests that only read the lake."""
    lake = Lake.open((tmp_path_factory.mktemp("filled") / "lake").as_uri())
    record = fill(lake)
    rows = [{"run_id": record["run_id"], "superseded_by": "x", "reason": "y", "at": "2026-11-02T00:00:00Z"}]
    lake.write_fact("supersessions", "2026-11-02", table_from_rows("supersessions", rows))
    return lake


def test_everything_is_published_and_reads_back_value_by_value(filled: Lake, dsn: str) -> None:
    (record,) = filled.run_records()
    report = publish.publish(filled, dsn)
    assert report.verified
    assert report.rows == count(dsn)
    assert report.rows == {
        "runs": 1, "run_steps": 2, "run_percentiles": 8, "slo_results": 2, "price_points": 2, "supersessions": 1,
        "annotations": 1, "instance_types": 1, "models": 1, "benchmark_results": 2, "coverage": 1, "mix_regression": 1,
        "latest_prices": 2, "cell_estimates": 1,
    }  # fmt: skip
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("set search_path to accelbench")
        run = connection.execute("select * from runs").fetchone()
        price = connection.execute("select usd_per_hour from price_points where tier = 'declared'").fetchone()
        regions = connection.execute("select regions from instance_types").fetchone()
    assert run is not None
    assert run["failure_text"] == record["failure_text"]
    assert run["engine_args"] == record["engine_args"]
    assert "漢" in run["failure_text"]
    assert run["requested_by"] == "", "empty text is not null"
    assert run["suite_id"] is None
    assert run["requested_at"].isoformat() == record["requested_at"]
    assert str(price["usd_per_hour"]) == "0.1234567891"  # type: ignore[index]
    assert regions == {"regions": ["us-east-1", "eu-west-1"]}


def test_a_lake_on_s3_is_published_too(s3_lake: Lake, dsn: str) -> None:
    fill(s3_lake)
    assert publish.publish(s3_lake, dsn).rows == count(dsn)
    assert count(dsn)["benchmark_results"] == 2


def test_publishing_again_appends_only_what_is_new(local_lake: Lake, dsn: str) -> None:
    first = fill(local_lake)
    publish.publish(local_lake, dsn)
    again = publish.publish(local_lake, dsn)
    assert {again.new_rows[t] for t in (*publish.RUN_TABLES, *publish.APPENDED, "price_points")} == {0}
    second = put_run(local_lake, make_record())
    write_derived(local_lake, first, output_tokens_per_s=1.0)  # published rows never change
    put_prices(local_lake, [make_price("g6.xlarge", "1")])
    build_marts(local_lake)
    third = publish.publish(local_lake, dsn)
    assert third.new_rows["runs"] == 1
    assert third.new_rows["price_points"] == 1
    assert third.rows["runs"] == 2
    assert third.rows == count(dsn)
    with psycopg.connect(dsn) as connection:
        rates = connection.execute("select run_id, output_tokens_per_s from accelbench.run_steps").fetchall()
        current = connection.execute("select distinct run_id from accelbench.catalog").fetchall()
    assert {rate for run_id, rate in rates if run_id == first["run_id"]} == {1000.0}
    assert current == [(second["run_id"],)]


def test_an_empty_lake_makes_an_empty_catalog(local_lake: Lake, dsn: str) -> None:
    report = publish.publish(local_lake, dsn)
    assert set(report.rows.values()) == {0}
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select * from accelbench.ranking").fetchall() == []


def test_no_unsucceeded_or_half_derived_run_is_in_any_table_or_view(local_lake: Lake, dsn: str) -> None:
    put_run(local_lake, make_record())
    for status in ("failed", "void", "cancelled", "infra_lost"):
        record = make_record(status=status)
        write_derived(local_lake, record)
        local_lake.finish(record)
    half = make_record()
    put_run(local_lake, half)
    for table in ("run_steps", "run_percentiles", "slo_results"):
        (key,) = [k for k in local_lake.storage.list(table) if half["run_id"] in k]
        local_lake.storage.delete(key)
    open_attempt = make_record()
    local_lake.begin_attempt(attempt(open_attempt))
    write_derived(local_lake, open_attempt)
    build_marts(local_lake)
    publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("set search_path to accelbench")
        for name in (*publish.RUN_TABLES, "benchmark_results", "cost_per_token", "catalog", "cheapest_price"):
            assert connection.execute(f"select count(distinct run_id) from {name}").fetchone() == (1,), name


def test_the_tables_have_the_columns_of_the_lake(filled: Lake, dsn: str) -> None:
    publish.publish(filled, dsn)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'accelbench'"
            " order by ordinal_position"
        ).fetchall()
        commented = connection.execute(
            "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = 'accelbench' and c.relkind = 'r' and c.relname <> 'schema_migrations' "
            "and obj_description(c.oid) is null"
        ).fetchone()
    for table in TABLES:
        columns = [column for name, column in found if name == table]
        want = SCHEMAS[table].names if table in SCHEMAS else filled.read_table(table).column_names
        assert columns == want, table
    assert commented == (0,)


MALFORMED = {
    "runs": (
        "status = 'void'",
        "status = 'failed'",
        "status = null",
        "origin = 'guessed'",
        "evidence_level = 'best'",
        "cell_id = null",
        "samples_rows = 0",
        "validity = null",
        'validity = \'{"errors": {"verdict": "void"}}\'',
        "committed_at = null",
        "tp = 0",
        "load_finished_at = load_started_at - interval '1 s'",
    ),
    "run_percentiles": ("p50_gate = 'needs_n'", "p99 = 1.0", "metric = null", "n = -1"),
    "run_steps": (
        "window_s = 0",
        "errors = -1",
        "load_kind = 'burst'",
        "error_rate = 1.5",
        "run_id = 'nobody'",
    ),
    "slo_results": ("attainment = 1.1", "decision = 'maybe'"),
    "price_points": ("usd_per_hour = -1", "tier = 'free'", "usd_per_hour = null, missing_reason = null"),
    "benchmark_results": ("verdict = null", "ttft_p50_gate = 'perhaps'", "is_sound = null"),
    "latest_prices": (
        "instance_hourly_usd = null, missing_reason = null",
        "usd_per_hour = -1",
        "tier = null",
        "tier = 'free'",
    ),
    "mix_regression": ("preferred = null", "basis = 'best'", "missing_reason = null"),
    "coverage": (
        "state = 'done'",
        "reason = null",
        "succeeded = 5",
        "state = 'never_run'",
        "state = 'failed'",
        "basis = null",
        "basis = 'arithmetic'",
        "basis = 'guess'",
        "state = 'does_not_fit', basis = 'arithmetic'",
    ),
    "cell_estimates": (
        "state = 'measured'",
        "state = 'unknown'",
        "reason = ''",
        "requests_per_s_low = 3",
        "requests_per_s = null",
        "usd_per_hour = null",
        "measured_runs = null",
    ),
}


def test_the_database_refuses_partial_and_malformed_rows(filled: Lake, dsn: str) -> None:
    publish.publish(filled, dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("set search_path to accelbench")
        for table, changes in MALFORMED.items():
            for change in changes:
                with pytest.raises(psycopg.errors.IntegrityError), connection.transaction():
                    connection.execute(f"update {table} set {change}")


def test_a_row_the_database_refuses_rolls_everything_back(local_lake: Lake, dsn: str) -> None:
    put_run(local_lake, make_record())
    build_marts(local_lake)
    publish.publish(local_lake, dsn)
    before = count(dsn)
    put_run(local_lake, make_record())
    put_run(local_lake, make_record(tp=0))
    build_marts(local_lake)
    with pytest.raises(
        PublishError, match=r"refused a malformed row: .*runs_tp_check.*nothing was published"
    ) as caught:
        publish.publish(local_lake, dsn)
    assert "\n" not in str(caught.value)
    assert count(dsn) == before


@pytest.mark.parametrize("table", TABLES)
def test_rows_that_read_back_differently_are_never_published(
    filled: Lake, dsn: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    copy_rows = copying.copy_rows

    def loses_or_alters(connection: Any, name: str, sent: Any) -> int:
        done = copy_rows(connection, name, sent)
        if name == table:
            change = {
                "runs": "update runs set seed = seed + 1",
                "run_steps": "update run_steps set requests_per_s = requests_per_s * 1.0000000000000004",
                "run_percentiles": "update run_percentiles set p50 = null where step_index = 1",
                "price_points": "update price_points set source = ''",
                "annotations": "update annotations set author = ''",
                "instance_types": "update instance_types set regions = '[]'",
            }.get(name, f"delete from {name}")
            assert connection.execute(change).rowcount
        return done

    monkeypatch.setattr(publish, "copy_rows", loses_or_alters)
    with pytest.raises(PublishError, match=f"table {table} read back differently .* nothing was published"):
        publish.publish(filled, dsn)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select count(*) from pg_namespace where nspname = 'accelbench'"
        ).fetchone()
    assert found == (0,), "not even the schema of a first publication stays"


def test_two_publishers_at_once_do_not_disturb_each_other(filled: Lake, dsn: str) -> None:
    errors: list[BaseException] = []

    def go() -> None:
        try:
            publish.publish(filled, dsn)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert count(dsn)["runs"] == 1


# -- schema --------------------------------------------------------------------------------------------------


def test_a_changed_or_newer_migration_is_refused(local_lake: Lake, dsn: str) -> None:
    publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("update accelbench.schema_migrations set sha256 = 'x'")
    with pytest.raises(PublishError, match="Migration 0001_catalog was changed"):
        publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from accelbench.schema_migrations where version > 1")
        connection.execute("update accelbench.schema_migrations set name = '9999_future', version = 9999")
        connection.execute("alter schema accelbench rename to accelbench_old")
        connection.execute("create schema accelbench")
        connection.execute("alter table accelbench_old.schema_migrations set schema accelbench")
    with pytest.raises(PublishError, match="made by a newer AccelBench"):
        publish.publish(local_lake, dsn)


def test_a_view_that_changed_is_replaced_and_others_are_left_alone(
    local_lake: Lake, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("set search_path to accelbench")
        assert schema.apply_views(connection) == []
        (view,) = [v for v in schema.sql_files("views") if v.name == "catalog"]
        for text in (
            "-- d\nselect run_id, cell_id from benchmark_results",
            "-- d\nselect cell_id from benchmark_results",
        ):
            changed = type(view)("catalog", text, "d", ("benchmark_results",), text)
            monkeypatch.setattr(schema, "sql_files", lambda _, changed=changed: (changed,))
            assert schema.apply_views(connection) == ["catalog"]
            assert schema.apply_views(connection) == []


# -- what can go wrong ---------------------------------------------------------------------------------------


def test_cells_of_other_instances_are_published_with_their_family(local_lake: Lake, dsn: str) -> None:
    put_run(local_lake, make_record(make_cell(instance="g6e.xlarge")))
    build_marts(local_lake)
    publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select distinct family from accelbench.benchmark_results").fetchall() == [
            ("g6e",)
        ]


def test_two_lakes_share_a_catalog_without_losing_each_others_results(
    tmp_path: Path, local_lake: Lake, dsn: str
) -> None:
    other = Lake.open((tmp_path / "other").as_uri())
    ours, theirs = put_run(local_lake, make_record()), put_run(other, make_record(make_cell(model="other")))
    for lake in (local_lake, other, other):
        build_marts(lake)
        publish.publish(lake, dsn)
    with psycopg.connect(dsn) as connection:
        held = connection.execute("select distinct run_id from accelbench.benchmark_results").fetchall()
    assert {ours["run_id"], theirs["run_id"]} <= {row[0] for row in held}
