"""DuckDB over the lake: what is attached, what cannot be seen, what cannot be done, how fast."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelbench_assets.errors import LakeError, UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit.duck import connect, query
from accelbench_assets.sqlkit.files import sql_files
from accelbench_assets.sqlkit.marts import build_mart, build_marts
from tests.support.runs import (
    attempt,
    make_cell,
    make_record,
    make_samples,
    put_run,
    put_shard,
    write_derived,
)

VIEWS = [f.name for f in sql_files("views")]
MARTS = [f.name for f in sql_files("marts")]


def one(lake: Lake, text: str) -> object:
    (row,) = query(lake, text).to_pylist()
    (value,) = row.values()
    return value


def test_an_empty_lake_has_every_table_mart_and_view_typed_and_empty(lake: Lake) -> None:
    with contextlib.closing(connect(lake)) as connection:
        listed = {row[0] for row in connection.execute("show tables").fetchall()}
        for name in (*SCHEMAS, *MARTS, *VIEWS):
            assert name in listed
            assert connection.execute(f"select count(*) from {name}").fetchall() == [(0,)]
        for name in SCHEMAS:
            described = connection.execute(f"describe {name}").fetchall()
            assert [row[0] for row in described] == SCHEMAS[name].names
        types = {row[0]: row[1] for row in connection.execute("describe price_points").fetchall()}
    assert types["usd_per_hour"] == "DECIMAL(20,10)"
    assert types["fetched_at"] == "TIMESTAMP WITH TIME ZONE"


def test_only_succeeded_runs_can_be_seen(lake: Lake) -> None:
    good = put_run(lake, make_record())
    for status in ("failed", "void"):
        bad = make_record(status=status)
        lake.begin_attempt(attempt(bad))
        put_shard(lake, bad["run_id"], [make_samples(bad["run_id"], 5)])
        write_derived(lake, bad)
        lake.finish(bad)
    half = make_record()  # a commit that was killed: parts have moved, there is no record
    lake.storage.write(
        f"raw_samples/family=local/cell_id={half['cell_id']}/run_id={half['run_id']}/part-000-000.parquet",
        _parquet(make_samples(half["run_id"], 5)),
    )
    write_derived(lake, half)
    for name in ("raw_samples", "run_steps", "run_percentiles", "slo_results", *MARTS[:1], "catalog"):
        with contextlib.closing(connect(lake)) as connection:
            seen = connection.execute(f"select distinct run_id from {name}").fetchall()
        assert seen == [(good["run_id"],)], name
    assert one(lake, "select count(*) from raw_samples") == 40
    assert one(lake, "select count(*) from runs") == 3


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_samples_filter_aggregate_and_unnest(lake: Lake) -> None:
    record = put_run(lake, make_record(), rows=50)
    run_id = record["run_id"]
    assert one(lake, f"select count(*) from raw_samples where run_id = '{run_id}' and status = 'ok'") == 100
    assert one(lake, "select count(*) from raw_samples where status = 'error'") == 0
    assert one(lake, "select sum(len(chunk_tokens)) from raw_samples where step_index = 1") == 100
    assert one(lake, "select max(u) from (select unnest(chunk_offset_us) as u from raw_samples)") == 99


def test_facts_show_the_newest_row_of_each_key(lake: Lake) -> None:
    rows = [
        {"model_id": "m", "revision": "1", "layers": n, "fetched_at": f"2026-01-0{n}T00:00:00Z"}
        for n in (1, 2)
    ]
    for row in rows:
        from accelbench_assets.lake.io import table_from_rows

        lake.write_fact("models", row["fetched_at"][:10], table_from_rows("models", [row]))
    assert query(lake, "select layers from models").to_pylist() == [{"layers": 2}]


def test_files_of_an_older_schema_are_still_read(lake: Lake) -> None:
    record = put_run(lake, make_record())
    other = put_run(lake, make_record())
    key = next(k for k in lake.storage.list("run_steps") if other["run_id"] in k)
    old = lake.read_table("run_steps").slice(0, 1).drop_columns(["queue_mean", "steady"])
    old = old.set_column(0, "run_id", pa.array([other["run_id"]]))
    lake.storage.write(key, _parquet(old))
    text = "select run_id, steady from run_steps order by run_id, steady"
    assert query(lake, text).to_pylist() == [
        {"run_id": record["run_id"], "steady": True},
        {"run_id": record["run_id"], "steady": True},
        {"run_id": other["run_id"], "steady": None},
    ]


def test_a_built_mart_is_read_and_an_outdated_or_damaged_one_is_computed(lake: Lake) -> None:
    put_run(lake, make_record())
    lake.put_cell(make_cell())
    assert build_marts(lake) == {
        "benchmark_results": 2,
        "coverage": 1,
        "cost_per_token": 2,
        "latest_prices": 0,
        "mix_regression": 1,
        "price_performance": 0,
        "run_costs": 1,
    }
    put_run(lake, make_record())
    assert one(lake, "select count(*) from benchmark_results") == 2, "as it was built"
    rows = build_mart(lake, "benchmark_results")
    assert rows.num_rows == 4
    assert one(lake, "select count(*) from catalog") == 2, "the newer run is current"
    lake.write_mart("benchmark_results", pa.table({"of": ["another", "version"]}))
    assert one(lake, "select count(*) from benchmark_results") == 4, "computed from its query"
    whole = lake.storage.read("marts/benchmark_results/part-0.parquet")
    torn = [whole[:at] + b"\xff" * 40 + whole[at + 40 :] for at in (len(whole) - 60, len(whole) - 900)]
    for damaged in (b"", b"not parquet", *torn):
        lake.storage.write("marts/benchmark_results/part-0.parquet", damaged)
        assert one(lake, "select count(*) from benchmark_results") == 4, "a copy: computed again"


@pytest.mark.parametrize(
    "text",
    [
        "drop view runs",
        "create table x as select 1",
        "insert into runs select * from runs",
        "copy (select 1) to 'out.csv'",
        "attach 'other.db'",
        "install httpfs",
        "set enable_external_access = true",
        "select 1; select 2",
        "",
        "selec 1",
        "select nothing from runs",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "from read_text('/etc/passwd')",
    ],
)
def test_sql_can_change_nothing_and_read_nothing_else(local_lake: Lake, text: str) -> None:
    put_run(local_lake, make_record())
    with pytest.raises(UsageError) as caught:
        query(local_lake, text)
    assert "\n" not in str(caught.value)
    assert not Path("out.csv").exists()


def test_show_describe_and_explain_work(local_lake: Lake) -> None:
    assert {"name": "runs"} in query(local_lake, "show tables").to_pylist()
    assert query(local_lake, "describe runs").num_rows == len(SCHEMAS["runs"])
    assert query(local_lake, "explain select * from runs").num_rows
    assert one(local_lake, "select count(*) from information_schema.tables where table_name = 'catalog'") == 1


def test_unreachable_storage_is_a_lake_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(LakeError, match="cannot be reached"):
        query(Lake.open("s3://b/l"), "select 1 from runs")


def test_a_damaged_file_is_named(local_lake: Lake) -> None:
    record = put_run(local_lake, make_record())
    local_lake.storage.write(
        f"run_steps/family=local/cell_id=x/run_id={record['run_id']}/part-0.parquet", b"not parquet"
    )
    with pytest.raises(LakeError, match=r"part-0\.parquet"):
        query(local_lake, "select * from run_steps")


def test_damaged_pages_behind_a_sound_footer_are_the_lakes_fault(local_lake: Lake) -> None:
    record = put_run(local_lake, make_record())
    (key,) = (k for k in local_lake.storage.list("run_steps") if record["run_id"] in k)
    whole = local_lake.storage.read(key)
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    local_lake.storage.write(key, whole[:4] + b"\0" * (len(whole) - 4 - footer) + whole[-footer:])
    with pytest.raises(LakeError, match="damaged"):
        query(local_lake, "select * from run_steps")


def test_no_file_is_left_in_the_working_directory(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    put_run(local_lake, make_record())
    query(local_lake, "select * from raw_samples order by ttft_ms")
    assert list(work.iterdir()) == []
