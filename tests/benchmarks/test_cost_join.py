"""The cost of 10,000 steps at any price, over a year of daily snapshots of 9 regions × 60 types × 14 offers.

DuckDB is held to 2 GiB and two threads throughout. A year is compared with a month of itself: more history must not
make a day, a join or a price table dearer. Prices, types and results are made up, and say so.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit import duck, marts
from accelbench_assets.sqlkit.copying import copy_rows
from accelbench_assets.sqlkit.costs import Offer, cost_rows
from accelbench_assets.sqlkit.duck import MART_HASH, connect
from accelbench_assets.sqlkit.files import sql_file
from accelbench_assets.sqlkit.marts import build_mart
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from accelbench_assets.sqlkit.publish import publish
from accelbench_assets.sqlkit.schema import apply_migrations, apply_views
from tests.benchmarks.price_history import OFFERS, REGIONS, ROWS_A_DAY, TYPES, day, write_days

LIMITS = {"memory_limit": "2GiB", "threads": 2}
DAYS, STEPS, STEPS_A_RUN = 365, 10_000, 4
JOIN_S, BUILD_S = 1.0, 10.0
PER_DAY = 1.5  # a history of a year may make a day's work this much dearer than one of a month
pytestmark = pytest.mark.long


def results(schema: pa.Schema, steps: int, first: int = 0) -> pa.Table:
    """Rows of ``benchmark_results``: *steps* of made-up runs over all types, seven workloads a deployment."""
    random = np.random.default_rng(first)
    rows = []
    for place in range(first, first + steps):
        run, step = divmod(place, STEPS_A_RUN)
        kind, workload = TYPES[run % len(TYPES)], run // len(TYPES) % 7
        n_in, n_out = (
            (8000, 1000),
            (1000, 1000),
            (1000, 8000),
            (128, 2000),
            (500, 500),
            (64, 64),
            (4000, 10),
        )[workload]
        rate = (
            float(random.uniform(0.9, 1)) / (1e-5 * n_in + 5e-4 * n_out + 0.02) * (0.25, 0.6, 0.95, 1.0)[step]
        )
        rows.append(
            {
                "run_id": f"synthetic-run-{run:06d}", "step_index": step, "cell_id": f"cell-{run:06d}",
                "cell_key": f"made-up@0~{kind}~synthetic-1~tp1-{run // 420:08d}~mix.{workload}@1",
                "deployment": f"made-up@0~{kind}~synthetic-1~tp1-{run // 420:08d}", "model": "made-up",
                "model_id": "synthetic/made-up", "instance_type": kind, "instance_count": 1 + run % 2,
                "is_current": True, "engine": "synthetic", "engine_version": "1", "workload_id": f"mix.{workload}@1",
                "superseded": False, "verdict": "pass", "is_sound": True, "origin": "simulated",
                "evidence_level": "demo",
                "load_kind": "open" if step else "closed", "load_value": float(step + 1),
                "slo_decision": "fail" if step == 3 else "pass",
                "requests_per_s": rate, "input_tokens_per_s": rate * n_in, "output_tokens_per_s": rate * n_out,
                "prefix_cache_hit_share": 0.1, "goodput_output_tokens_per_s": rate * n_out * 0.9, "ready_s": 100.0,
                "ttft_mean_ms": 200.0, "itl_mean_ms": 20.0, "decode_concurrency_mean": 4.0 * (step + 1),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def put_results(lake: Lake, steps: int) -> None:
    with connect(lake, only=("benchmark_results",), as_of=date(1970, 1, 1)) as db:
        schema = db.sql("select * from benchmark_results limit 0").to_arrow_table().schema
    file = sql_file("marts", "benchmark_results")
    lake.write_mart(file.name, results(schema, steps).replace_schema_metadata({MART_HASH: file.sha256}))


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.open((tmp_path_factory.mktemp("year") / "lake").as_uri())
    write_days(lake, range(DAYS))
    put_results(lake, STEPS)
    return lake


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marts are built within the same limits."""

    def within(*arguments: Any, **options: Any) -> Any:
        return duck.connect(*arguments, **{"limits": LIMITS, **options})

    monkeypatch.setattr(marts, "connect", within)


def seconds(call: Callable[[], object], times: int = 3) -> float:
    """The median of *times* calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def test_a_year_of_prices_is_what_it_should_be(year: Lake) -> None:
    assert (len(REGIONS), len(TYPES), len(OFFERS), ROWS_A_DAY) == (9, 60, 14, 7560)
    with connect(year, only=("price_points",), limits=LIMITS) as db:
        ((rows,),) = db.execute("select count(*) from price_points").fetchall()
    assert rows == DAYS * ROWS_A_DAY


def test_the_latest_prices_are_built_in_ten_seconds(year: Lake, limited: None) -> None:
    year.storage.delete("marts/latest_prices/part-0.parquet")
    assert build_mart(year, "latest_prices").num_rows == ROWS_A_DAY
    taken = seconds(lambda: build_mart(year, "latest_prices"))
    print(f"\nlatest_prices from {DAYS} days: {taken:.2f} s")
    assert taken < BUILD_S


OFFERS_ASKED = [
    Offer("synthetic-region-3", "on_demand", as_of=day(200)),
    Offer("synthetic-region-9", "reserved_3y", "all_upfront", as_of=day(0)),
    Offer("synthetic-region-1", "savings_1y", "no_upfront", "compute", as_of=day(364)),
    Offer("synthetic-region-5", "spot"),
    Offer("synthetic-region-5", "on_demand"),
]


@pytest.mark.parametrize("offer", OFFERS_ASKED, ids=lambda o: f"{o.tier}-{o.as_of or 'latest'}")
def test_the_cost_of_ten_thousand_steps_is_joined_in_a_second(
    year: Lake, offer: Offer, limited: None
) -> None:
    build_mart(year, "latest_prices")
    found = cost_rows(year, offer, limits=LIMITS)
    assert found.num_rows == STEPS
    rows = found.select(
        ["usd_per_request", "missing_reason", "tier", "region", "regression_mixes"]
    ).to_pylist()
    priced = [row for row in rows if row["missing_reason"] is None]
    assert 0.9 * STEPS < len(priced) < STEPS, "one offer in fifty is not sold, and says so"
    assert all(row["usd_per_request"] > 0 for row in priced)
    assert {(row["tier"], row["region"]) for row in rows} == {(offer.tier, offer.region)}
    assert max(row["regression_mixes"] for row in rows) >= 4, "the fits over workloads are part of the join"
    taken = seconds(lambda: cost_rows(year, offer, limits=LIMITS), 5)
    print(f"\n{STEPS} steps at {offer.described()}: {taken:.2f} s")
    assert taken < JOIN_S


def test_the_work_of_a_day_does_not_grow_with_the_history(year: Lake, tmp_path: Path, limited: None) -> None:
    month = Lake.open((tmp_path / "month").as_uri())
    write_days(month, range(DAYS - 30, DAYS))
    put_results(month, STEPS)
    offer = Offer("synthetic-region-3", "on_demand", as_of=day(DAYS - 10))
    ratios = {}
    for what, call in (
        ("building latest_prices", lambda lake: build_mart(lake, "latest_prices")),
        ("the join as of a day", lambda lake: cost_rows(lake, offer, limits=LIMITS)),
    ):
        pairs = [(seconds(lambda: call(year), 1), seconds(lambda: call(month), 1)) for _ in range(7)]  # noqa: B023
        ratios[what] = statistics.median(y / m for y, m in pairs)
    print("\na year beside a month: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items()))
    assert all(ratio < PER_DAY for ratio in ratios.values()), ratios


def test_a_day_more_is_published_by_itself(tmp_path: Path, limited: None) -> None:
    lake = Lake.open((tmp_path / "lake").as_uri())
    write_days(lake, range(20))
    build_mart(lake, "latest_prices")
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        began = time.perf_counter()
        assert publish(lake, server.dsn).new_rows["price_points"] == 20 * ROWS_A_DAY
        whole = time.perf_counter() - began
        write_days(lake, range(20, 21))
        build_mart(lake, "latest_prices")
        began = time.perf_counter()
        report = publish(lake, server.dsn)
        more = time.perf_counter() - began
        with contextlib.closing(psycopg.connect(server.dsn)) as connection:
            stored = connection.execute("select count(*) from accelbench.price_points").fetchone()
    print(f"\npublishing 20 days: {whole:.1f} s; one more: {more:.1f} s")
    assert report.new_rows["price_points"] == ROWS_A_DAY
    assert stored == (21 * ROWS_A_DAY,)
    assert more < whole / 2


def test_the_catalog_joins_ten_thousand_steps_in_a_second(year: Lake, tmp_path: Path, limited: None) -> None:
    """The same view in PostgreSQL, over the tables of the catalog."""
    names = ("benchmark_results", "latest_prices", "mix_regression")
    for name in names[1:]:
        build_mart(year, name)
    with EmbeddedPostgres(tmp_path / "postgres") as server, psycopg.connect(server.dsn) as connection:
        apply_migrations(connection)
        connection.execute("set session_replication_role = replica")  # these results have no runs behind them
        for name in names:
            rows = year.read_table(name)
            copy_rows(connection, name, _filled(rows) if name == "benchmark_results" else rows)
            connection.execute(f"analyze {name}")
        apply_views(connection)
        text = "select * from cost_per_token where region = 'synthetic-region-3' and tier = 'on_demand'"
        assert len(connection.execute(text).fetchall()) == STEPS
        taken = seconds(lambda: connection.execute(text).fetchall())
    print(f"\n{STEPS} steps in PostgreSQL: {taken:.2f} s")
    assert taken < JOIN_S


def _filled(rows: pa.Table) -> pa.Table:
    """*rows* with something in the columns that the catalog wants and the join does not read."""
    wanted = {"launcher": "synthetic", "family": "synthetic", "model_revision": "0", "window_s": 1.0, "ok": 1}
    for name, value in wanted.items():
        field = rows.schema.field(name)
        rows = rows.set_column(
            rows.schema.get_field_index(name), field, pa.array([value] * len(rows), field.type)
        )
    return rows
