"""Records, tables, facts, marts, logs and the registry of cells."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils import uuid7

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import io, layout
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import RUN_TABLES, SCHEMA_VERSION, SCHEMAS
from loadgen.samples import SCHEMA_VERSION as SAMPLES_VERSION
from loadgen.samples import sample_schema
from partitions.cell import Deployment
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run, write_derived


def test_every_table_has_a_schema_with_its_version() -> None:
    for name, schema in SCHEMAS.items():
        own = SAMPLES_VERSION if name == "raw_samples" else SCHEMA_VERSION
        assert schema.metadata[b"schema_version"] == own.encode(), name
        assert len(set(schema.names)) == len(schema)
    assert SCHEMAS["raw_samples"] == sample_schema()
    with pytest.raises(KeyError):
        SCHEMAS["nothing"]


def test_names_carry_their_units_and_money_its_type() -> None:
    for name, schema in SCHEMAS.items():
        for field in schema:
            if field.name.endswith("_ms"):
                assert field.type == pa.float64(), f"{name}.{field.name}"
            if field.name.endswith("_at") and name != "raw_samples":
                assert field.type == pa.timestamp("us", tz="UTC"), f"{name}.{field.name}"
    for column in ("usd_per_hour", "upfront_usd", "effective_usd_per_hour"):
        assert SCHEMAS["price_points"].field(column).type == pa.decimal128(20, 10)


def test_records_come_back_newest_first_and_by_part_of_their_id(lake: Lake) -> None:
    records = []
    for status in ("failed", "void", "cancelled"):
        records.append(make_record(status=status))
        lake.finish(records[-1])
    ids = [r["run_id"] for r in records]
    assert [r["run_id"] for r in lake.run_records()] == ids[::-1]
    assert [r["run_id"] for r in lake.run_records(limit=1)] == ids[-1:]
    assert [r["run_id"] for r in lake.run_records(status="void")] == [ids[1]]
    assert lake.run_records(cell_id="other") == []
    assert lake.run_record(ids[0]) == lake.run_record(ids[0][-12:])
    with pytest.raises(LakeError, match="matches 3 runs"):
        lake.run_record(ids[0][:8])
    for unknown in ("ffffffff", "../../etc", "", str(uuid7())):
        assert lake.run_record(unknown) is None


def test_a_record_lies_under_the_day_in_its_id() -> None:
    assert layout.run_key("01931d9b-5c00-7000-8000-000000000000").startswith("runs/date=2024-11-")
    with pytest.raises(LakeError, match="not a run id"):
        layout.run_key("../x")


def test_runs_as_a_table_have_the_types_of_the_schema(local_lake: Lake) -> None:
    put_run(local_lake, make_record(run_cost_usd=0.25, max_model_len=2048, unknown_field=1))
    table = local_lake.read_table("runs")
    assert table.schema == SCHEMAS["runs"]
    (row,) = table.to_pylist()
    assert row["engine_args"] == '{"threads":1}'
    assert row["requested_at"].isoformat() == "2026-11-01T12:00:00+00:00"
    assert row["run_cost_usd"] == 0.25
    assert row["weights_sha256"] is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=True)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(document=st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_any_json_document_survives_in_a_record(document: dict[str, Any]) -> None:
    import orjson

    text = io.runs_table([make_record(env=document)]).column("env")[0].as_py()
    assert orjson.loads(text) == orjson.loads(io.dump_json(document))


def test_derived_tables_of_unpublished_runs_stay_hidden(lake: Lake) -> None:
    put_run(lake, make_record())
    failed = make_record(status="failed")
    write_derived(lake, failed)
    lake.finish(failed)
    write_derived(lake, make_record())  # never recorded at all
    for table, rows in (("run_steps", 2), ("run_percentiles", 8), ("slo_results", 2), ("engine_metrics", 0)):
        assert lake.read_table(table).num_rows == rows
        assert lake.read_table(table).schema == SCHEMAS[table]
    assert lake.has_run_table("run_steps", failed)
    assert not lake.has_run_table("engine_metrics", failed)


def test_unwritten_tables_are_empty_with_schema(local_lake: Lake) -> None:
    for name, schema in SCHEMAS.items():
        table = local_lake.read_table(name)
        assert table.num_rows == 0
        assert table.schema.equals(schema)
    with pytest.raises(LakeError, match="no table or mart 'nonsense'"):
        local_lake.read_table("nonsense")


def test_rows_that_do_not_fit_are_refused(local_lake: Lake) -> None:
    record = put_run(local_lake, make_record())
    steps = local_lake.read_table("run_steps")
    with pytest.raises(LakeError, match="do not fit table run_steps"):
        local_lake.write_run_table("run_steps", record, steps.drop_columns(["window_s"]))
    holed = steps.set_column(0, "run_id", pa.nulls(steps.num_rows, pa.string()))
    with pytest.raises(LakeError, match=r"run_id.* null values"):
        local_lake.write_run_table("run_steps", record, holed)
    with pytest.raises(LakeError, match="not a table written by run"):
        local_lake.write_run_table("models", record, steps)
    with pytest.raises(LakeError, match="not a table of facts"):
        local_lake.write_fact("run_steps", "2026-01-01", steps)
    derived = {"run_steps", "run_percentiles", "slo_results", "run_compat"}
    assert derived | {"engine_metrics", "accelerator_metrics"} == set(RUN_TABLES)


def test_prices_keep_ten_digits_and_the_same_snapshot_lands_once(lake: Lake) -> None:
    price = make_price("g6.xlarge", "0.8048000001")
    put_prices(lake, [price])
    put_prices(lake, [price])
    put_prices(lake, [make_price("g6.xlarge", "0.9")], date="2026-11-02")
    table = lake.read_table("price_points")
    assert sorted(table.column("usd_per_hour").to_pylist()) == [Decimal("0.8048000001"), Decimal("0.9")]


def test_a_mart_is_replaced_whole(lake: Lake) -> None:
    lake.write_mart("m", pa.table({"a": [1, 2, 3]}))
    assert lake.write_mart("m", pa.table({"a": [4]})).endswith("/marts/m/part-0.parquet")
    assert lake.read_table("m").to_pydict() == {"a": [4]}


def test_logs_are_kept_and_read(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"line \xff one\n")
    lake.put_log("run-1", "engine.log", path)
    assert lake.log_names("run-1") == ["engine.log"]
    assert lake.log_names("run-2") == []
    assert lake.read_log("run-1", "engine.log") == "line \ufffd one\n"
    with pytest.raises(LakeError, match="There is no"):
        lake.read_log("run-1", "other.log")


def test_cells_are_found_by_their_key(lake: Lake) -> None:
    cells = [make_cell(), make_cell(model="llama-3.1-8b", instance="g6e.xlarge", deployment=Deployment(tp=2))]
    for cell in (*cells, *cells):
        lake.put_cell(cell)
    assert lake.cells() == sorted(cells, key=lambda c: c.key_text)
    for cell in cells:
        assert lake.find_cell(cell.key_text) == cell
    assert lake.find_cell(make_cell(engine="vllm").key_text) is None
    assert lake.read_table("cells").column("family").to_pylist() == ["g6e", "local"]


def test_importing_the_lake_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    code = "import sys, accelbench_assets.lake.lake; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("pyarrow", "duckdb", "boto3", "numpy", "psycopg", "orjson"):
        assert not re.search(rf"'{heavy}'", loaded), heavy
