"""The latest price of every offer, prices as of a day, and the work a new day makes: that day's, not the history's."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit.costs import Offer, cost_rows
from accelbench_assets.sqlkit.dialect import to_postgres
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.files import sql_file
from accelbench_assets.sqlkit.marts import build_mart, build_marts
from accelbench_assets.sqlkit.prices import files_of
from accelbench_assets.sqlkit.publish import publish
from tests.sql.cost_lake import put_instances, put_steps
from tests.sql.engines import mirror
from tests.support.runs import make_cell, make_price, make_record, put_run

G6, G5 = "g6.xlarge", "g5.xlarge"


def snapshot(lake: Lake, day: str, rows: list[dict[str, Any]], *, mark: str = "a") -> None:
    """A whole snapshot, as they are written: one file, an id that begins with the day."""
    stamp = {"snapshot_id": f"{day}-{mark}", "fetched_at": f"{day}T06:00:00Z"}
    made = [
        make_price(row.pop("type", G6), row.pop("usd", None), **{**stamp, **row}) for row in map(dict, rows)
    ]
    lake.write_fact("price_points", day, table_from_rows("price_points", made))


def latest(lake: Lake) -> dict[tuple[Any, ...], Decimal | None]:
    rows = query(lake, "select * from latest_prices").to_pylist()
    found = {
        (r["instance_type"], r["tier"], r["payment_option"] or r["zone"]): r["instance_hourly_usd"]
        for r in rows
    }
    assert len(found) == len(rows)
    return found


@pytest.fixture(params=["computed", "built", "postgres"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def latest_by(how: str, lake: Lake, request: pytest.FixtureRequest) -> dict[tuple[Any, ...], Decimal | None]:
    """The same from the query over all price points, from the built mart, and from PostgreSQL over all price points."""
    if how == "built":
        build_mart(lake, "latest_prices")
    if how != "postgres":
        return latest(lake)
    tables = {name: SCHEMAS[name].empty_table() for name in ("runs", "cells", "instance_types")}
    tables["benchmark_results"] = query(lake, "select * from benchmark_results")
    tables["price_points"] = query(lake, "select * from price_points")
    with mirror(request.getfixturevalue("dsn"), tables) as connection:
        rows = connection.execute(to_postgres(sql_file("marts", "latest_prices").text)).fetchall()
    return {
        (r["instance_type"], r["tier"], r["payment_option"] or r["zone"]): r["instance_hourly_usd"]
        for r in rows
    }


@pytest.mark.xdist_group("postgres")
def test_the_last_snapshot_is_the_last_word(
    local_lake: Lake, how: str, request: pytest.FixtureRequest
) -> None:
    snapshot(local_lake, "2026-11-01", [
        {"usd": "9"}, {"usd": "3", "tier": "spot", "zone": "a"}, {"usd": "4", "tier": "spot", "zone": "b"},
        {"tier": "reserved_1y", "missing_reason": "nobody has asked", "fetched_at": None},
        {"type": G5, "usd": "1"},
    ])  # fmt: skip
    snapshot(local_lake, "2026-11-03", [
        {"usd": "9", "fetched_at": "2026-11-01T06:00:00Z"},  # carried on: nobody could be asked
        {"usd": "2.5", "tier": "spot", "zone": "a"},
        {"tier": "reserved_1y", "payment_option": "all_upfront", "upfront_usd": "8760", "term_hours": 8760.0},
        {"tier": "reserved_1y", "payment_option": "no_upfront", "usd": "1.25", "term_hours": 8760.0},
    ])  # fmt: skip
    assert latest_by(how, local_lake, request) == {
        (G6, "on_demand", None): Decimal(9),
        (G6, "spot", "a"): Decimal("2.5"),
        (G6, "reserved_1y", "all_upfront"): Decimal(1),
        (G6, "reserved_1y", "no_upfront"): Decimal("1.25"),
    }, "zone b, the blank and the type that is gone are not carried on for ever"


@pytest.mark.xdist_group("postgres")
def test_snapshots_written_at_once_complete_each_other(
    local_lake: Lake, how: str, request: pytest.FixtureRequest
) -> None:
    own = {"provider": "local", "region": "unstated", "os": None, "tenancy": None, "type": "local-1a2b3c4d"}
    blank = {**own, "missing_reason": "this machine has no price", "fetched_at": None}
    snapshot(
        local_lake, "2026-11-01", [{"type": G5, "usd": "7"}], mark="z"
    )  # an earlier day, whatever its mark
    told = {**own, "tier": "declared", "usd": "0.5", "fetched_at": "2026-11-02T09:00:00Z"}
    snapshot(local_lake, "2026-11-02", [{"usd": "9"}, blank], mark="a")
    snapshot(local_lake, "2026-11-02", [{"usd": "9"}, {**told, "type": "local-ffffffff"}], mark="b")
    snapshot(
        local_lake, "2026-11-02", [{"usd": "9"}, {**told, "fetched_at": "2026-11-02T09:00:01Z"}], mark="c"
    )
    assert latest_by(how, local_lake, request) == {
        (G6, "on_demand", None): Decimal(9),
        ("local-ffffffff", "declared", None): Decimal("0.5"),
        ("local-1a2b3c4d", "declared", None): Decimal("0.5"),
    }, "the declaration that the last one missed counts, the blank it has replaced does not"


def test_an_offer_that_is_given_twice_counts_once(local_lake: Lake) -> None:
    snapshot(local_lake, "2026-11-01", [{"usd": "9"}, {"usd": "8", "fetched_at": "2026-11-01T07:00:00Z"}])
    snapshot(local_lake, "2026-11-01", [{"usd": "9"}, {"usd": "8", "fetched_at": "2026-11-01T07:00:00Z"}, {
        "usd": "6", "tier": "capacity_block", "offering_class": "block_24h", "term_hours": 24.0}, {
        "usd": "5", "tier": "capacity_block", "offering_class": "block_24h", "term_hours": 48.0}])  # fmt: skip
    rows = query(
        local_lake, "select tier, instance_hourly_usd as usd from latest_prices order by 1, 2"
    ).to_pylist()
    assert [(r["tier"], float(r["usd"])) for r in rows] == [
        ("capacity_block", 5.0),
        ("capacity_block", 6.0),
        ("on_demand", 8.0),
    ]


@pytest.mark.parametrize(
    ("columns", "hourly"),
    [
        ({"usd": "3"}, Decimal(3)),
        ({"usd": "3", "upfront_usd": "26280", "term_hours": 8760.0}, Decimal(6)),
        ({"usd": None, "upfront_usd": "105120", "term_hours": 26280.0}, Decimal(4)),
        ({"usd": "0", "upfront_usd": "5000", "term_hours": 8760.0}, Decimal("0.5707762557")),
        (
            {"usd": "1", "effective_usd_per_hour": Decimal("2.5"), "upfront_usd": "9", "term_hours": 1.0},
            Decimal("2.5"),
        ),
        ({"usd": None, "upfront_usd": "9", "missing_reason": "no term"}, None),
        ({"usd": None, "missing_reason": "not sold"}, None),
    ],
)
def test_upfront_payments_are_spread_over_the_term(
    local_lake: Lake, columns: dict[str, Any], hourly: Decimal | None
) -> None:
    snapshot(local_lake, "2026-11-01", [columns])
    schema = query(local_lake, "select instance_hourly_usd from latest_prices").schema
    assert schema.field(0).type == pa.decimal128(20, 10)
    assert list(latest(local_lake).values()) == [hourly]


# -- as of a day ---------------------------------------------------------------------------------------------


def put_history(lake: Lake) -> dict[str, Any]:
    record = make_record(make_cell(instance=G6))
    put_steps(
        lake, record, [{"requests_per_s": 5.0, "input_tokens_per_s": 5000.0, "output_tokens_per_s": 1000.0}]
    )
    for day, usd in (("2026-11-01", "9"), ("2026-11-02", "8"), ("2026-11-05", "6")):
        offers = [
            {"usd": usd},
            {"usd": "50", "region": "eu-west-1"},
            {"usd": "4", "tier": "reserved_1y", "payment_option": "no_upfront"},
            {"usd": "3", "tier": "reserved_1y", "payment_option": "all_upfront"},
            {"usd": "0.5", "tier": "declared", "region": "unstated"},
        ]
        snapshot(lake, day, offers)
    return record


def hourly(lake: Lake, **offer: Any) -> list[float | None]:
    rows = cost_rows(lake, Offer(**offer)).to_pylist()
    return [None if r["instance_hourly_usd"] is None else float(r["instance_hourly_usd"]) for r in rows]


@pytest.mark.parametrize("built", [False, True])
def test_the_cost_as_of_any_day(local_lake: Lake, built: bool) -> None:
    put_history(local_lake)
    if built:
        build_marts(local_lake)
    here: dict[str, Any] = {"region": "us-east-1", "tier": "on_demand"}
    for day, want in ((1, 9.0), (2, 8.0), (3, 8.0), (4, 8.0), (5, 6.0), (30, 6.0)):
        assert hourly(local_lake, **here, as_of=date(2026, 11, day)) == [want]
    assert hourly(local_lake, **here) == [6.0]
    assert hourly(local_lake, region="eu-west-1", as_of=date(2026, 11, 3)) == [50.0]
    assert hourly(local_lake, region="us-east-1", tier="reserved_1y", as_of=date(2026, 11, 2)) == [3.0, 4.0]
    assert hourly(local_lake, **here | {"tier": "reserved_1y"}, payment_option="all_upfront") == [3.0]
    both = cost_rows(local_lake, Offer(**here, as_of=date(2026, 11, 2)), declared=True).to_pylist()
    assert [(r["tier"], float(r["hourly_usd"])) for r in both] == [("declared", 0.5), ("on_demand", 8.0)]
    (row,) = cost_rows(local_lake, Offer(**here, as_of=date(2026, 11, 2))).to_pylist()
    assert row["price_as_of"] == datetime(2026, 11, 2, 6, tzinfo=UTC)
    assert row["usd_per_request"] == pytest.approx(8 / 3600 / 5, rel=1e-9)


def test_before_the_first_snapshot_there_is_no_price_and_never_a_default(local_lake: Lake) -> None:
    record = put_history(local_lake)
    (row,) = cost_rows(
        local_lake, Offer(region="us-east-1", tier="on_demand", as_of=date(2026, 10, 31))
    ).to_pylist()
    assert row["missing_reason"] == f"no on_demand price in us-east-1 as of 2026-10-31 is known for {G6}"
    assert {n: v for n, v in row.items() if n.startswith("usd_per") and v is not None} == {}
    (row,) = cost_rows(local_lake, Offer(region="mars' moon", tier="spot")).to_pylist()
    assert row["missing_reason"] == f"no spot price in mars' moon is known for {G6}"
    assert cost_rows(local_lake, run_ids=[]).num_rows == 0
    assert cost_rows(local_lake, run_ids=[record["run_id"]]).num_rows == 5
    assert cost_rows(local_lake, run_ids=["x'; drop table y"]).num_rows == 0


def test_s3_has_the_same_prices(s3_lake: Lake) -> None:
    put_history(s3_lake)
    build_marts(s3_lake)
    assert hourly(s3_lake, region="us-east-1", tier="on_demand") == [6.0]
    assert hourly(s3_lake, region="us-east-1", tier="on_demand", as_of=date(2026, 11, 4)) == [8.0]


# -- the work of a day ---------------------------------------------------------------------------------------


def spoil(lake: Lake, day: str) -> None:
    """Make a day's snapshots unreadable: whoever opens one of them fails."""
    for key in lake.storage.list(f"facts/price_points/date={day}"):
        lake.storage.write(key, b"not parquet at all")


@pytest.mark.xdist_group("postgres")
def test_a_new_day_opens_no_other_days_file(local_lake: Lake, dsn: str) -> None:
    put_history(local_lake)
    build_marts(local_lake)
    publish(local_lake, dsn)
    for day in ("2026-11-01", "2026-11-02", "2026-11-05"):
        spoil(local_lake, day)
    with pytest.raises(LakeError):
        query(local_lake, "select count(*) from price_points where sku is null")
    snapshot(local_lake, "2026-11-06", [{"usd": "5.5"}])
    counts = build_marts(local_lake)
    assert (counts["latest_prices"], counts["cost_per_token"]) == (1, 1)
    report = publish(local_lake, dsn)
    assert (report.new_rows["price_points"], report.rows["price_points"], report.rows["latest_prices"]) == (
        1,
        16,
        1,
    )
    assert hourly(local_lake, region="us-east-1", tier="on_demand") == [5.5]
    assert hourly(local_lake, region="us-east-1", tier="on_demand", as_of=date(2026, 11, 30)) == [5.5]


def test_a_new_run_makes_nothing_of_cost_anew(local_lake: Lake) -> None:
    put_history(local_lake)
    build_marts(local_lake)
    keys = set(local_lake.storage.list("marts"))
    assert not any("cost_per_token" in key for key in keys), "a join at read has no file to make again"
    before = local_lake.storage.read("marts/latest_prices/part-0.parquet")
    put_run(local_lake, make_record(make_cell(instance=G6)))
    build_mart(local_lake, "benchmark_results")
    assert local_lake.storage.read("marts/latest_prices/part-0.parquet") == before
    assert query(local_lake, "select count(distinct run_id) as n from cost_per_token").to_pylist() == [
        {"n": 2}
    ]


def test_a_mart_of_before_that_is_no_longer_stored_is_not_read(local_lake: Lake) -> None:
    put_history(local_lake)
    local_lake.write_mart("cost_per_token", pa.table({"run_id": ["stale"]}))
    assert query(
        local_lake, "select count(*) as n from cost_per_token where run_id = 'stale'"
    ).to_pylist() == [{"n": 0}]


def test_folders_that_are_no_day_are_left_alone(local_lake: Lake) -> None:
    assert files_of(local_lake) == []
    put_history(local_lake)
    local_lake.storage.write("facts/price_points/date=tomorrow/part-0.parquet", b"?")
    local_lake.storage.write("facts/price_points/date=2026-12-01/notes.txt", b"?")
    assert len(files_of(local_lake)) == 1
    assert "date=2026-11-05/" in files_of(local_lake)[0]
    assert "date=2026-11-02/" in files_of(local_lake, date(2026, 11, 4))[0]


# -- several lakes in one catalog ----------------------------------------------------------------------------


@pytest.mark.xdist_group("postgres")
def test_lakes_that_share_a_catalog_keep_each_others_prices(
    local_lake: Lake, tmp_path_factory: pytest.TempPathFactory, dsn: str
) -> None:
    other = Lake.open((tmp_path_factory.mktemp("other") / "lake").as_uri())
    own = {
        "region": "unstated",
        "tier": "declared",
        "type": "local-1a2b3c4d",
        "provider": "local",
        "usd": "0.5",
    }
    snapshot(local_lake, "2026-11-01", [{"usd": "9"}, own], mark="ours")
    snapshot(other, "2026-11-02", [{"usd": "8"}, {"type": G5, "usd": "1"}], mark="theirs")

    def stored() -> dict[str, float]:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "select instance_type, instance_hourly_usd from accelbench.latest_prices"
            )
            return {name: float(usd) for name, usd in rows}

    for lake in (local_lake, other):
        build_marts(lake)
        publish(lake, dsn)
    assert stored() == {G6: 8.0, G5: 1.0, "local-1a2b3c4d": 0.5}
    publish(local_lake, dsn)
    assert stored() == {G6: 8.0, G5: 1.0, "local-1a2b3c4d": 0.5}, "an older answer takes nothing back"
    snapshot(local_lake, "2026-11-03", [{"usd": "7"}], mark="ours")
    build_marts(local_lake)
    publish(local_lake, dsn)
    assert stored() == {G6: 7.0, G5: 1.0}, "what a lake no longer says of itself goes"


@pytest.mark.xdist_group("postgres")
def test_the_same_points_in_another_file_are_sent_once(local_lake: Lake, dsn: str) -> None:
    put_history(local_lake)
    build_marts(local_lake)
    assert publish(local_lake, dsn).new_rows["price_points"] == 15
    rows = local_lake.read_table("price_points").slice(0, 5)
    local_lake.write_fact("price_points", "2026-11-01", rows.slice(1, 3))
    assert publish(local_lake, dsn).new_rows["price_points"] == 0


# -- partly used instances -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "count", "share"), [(2, 1, 0.5), (4, 1, 1.0), (2, 2, 0.25), (None, 1, None), (9, 1, None)]
)
def test_whole_instances_are_billed_and_the_used_share_is_said(
    local_lake: Lake, used: int | None, count: int, share: float | None
) -> None:
    record = make_record(make_cell(instance="g6.12xlarge"), accelerators_used=used, instance_count=count)
    put_steps(local_lake, record, [{}])
    put_instances(local_lake, {"g6.12xlarge": 4})
    snapshot(local_lake, "2026-11-01", [{"type": "g6.12xlarge", "usd": "10"}])
    (row,) = query(local_lake, "select * from cost_per_token").to_pylist()
    assert row["usage_share"] == share
    assert row["accelerators_billed"] == 4 * count
    assert row["hourly_usd"] == 10 * count
    assert row["usd_per_request"] == pytest.approx(10 * count / 3600 / 5, rel=1e-9), "whole instances"
    if share is None:
        assert row["usd_per_request_if_share_billed"] is None
    else:
        assert row["usd_per_request_if_share_billed"] == pytest.approx(
            share * row["usd_per_request"], rel=1e-9
        )
        full, shared = (row[f"usd_per_1m_output_full_hour{end}"] for end in ("", "_if_share_billed"))
        assert shared == pytest.approx(share * full, rel=1e-9)
