"""Prices are dated and sourced, or missing with a reason. Cost formulas hold to the golden figures."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.errors import UsageError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing import cost, packaged
from accelbench_assets.pricing.points import EC2_TIERS
from accelbench_assets.pricing.snapshot import declared_price, price_points
from partitions.catalog import load_instances

DAY = date(2026, 11, 21)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HERE = "local-1a2b3c4d"
SERVER = "endpoint-0011aabb"
HEADER = ",".join(packaged.COLUMNS)


def rows(**arguments: Any) -> dict[tuple[str, str], dict[str, Any]]:
    table = price_points(DAY, at=NOON, **arguments)
    return {(r["instance_type"], r["tier"]): r for r in table.to_pylist()}


def test_every_type_has_a_price_or_a_reason() -> None:
    table = price_points(DAY, also=(HERE, SERVER))
    assert table.schema.equals(SCHEMAS["price_points"], check_metadata=True)
    table.validate(full=True)
    found = table.to_pylist()
    assert {r["instance_type"] for r in found} >= {*load_instances(), HERE, SERVER}
    for row in found:
        assert (row["usd_per_hour"] is None) != (row["missing_reason"] is None), row
        assert row["usd_per_hour"] == row["effective_usd_per_hour"]
        if row["usd_per_hour"] is not None:
            assert row["usd_per_hour"] > 0
            assert row["source"]
            assert len(row["source_sha256"]) == 64
            assert row["source_sha256"] == packaged.file_sha256() or row["provider"] != "aws"
            assert row["fetched_at"] is not None
    assert len({r["price_point_id"] for r in found}) == len(found)
    assert len({r["snapshot_id"] for r in found}) == 1


def test_packaged_prices_are_exact_and_dated_with_their_own_day() -> None:
    row = rows()["g6e.2xlarge", "on_demand"]
    assert row["usd_per_hour"] == Decimal("2.2420800000")
    assert (row["provider"], row["region"], row["os"], row["tenancy"]) == (
        "aws",
        "us-east-1",
        "linux",
        "shared",
    )
    assert (
        row["fetched_at"] == row["effective_from"] == datetime(2026, 7, 20, tzinfo=UTC)
    )  # not the snapshot's day
    assert "karpenter" in row["source"]
    assert rows()["p5.48xlarge", "on_demand"]["usd_per_hour"] == Decimal("55.04")


@pytest.mark.parametrize(
    ("instance", "says"),
    [
        ("p5e.48xlarge", "capacity blocks"),
        ("trn2.48xlarge", "capacity blocks"),
        ("gr6.4xlarge", "no on-demand price in us-east-1 is packaged or fetched: `accelbench prices refresh"),
    ],
)
def test_types_without_an_on_demand_price(instance: str, says: str) -> None:
    row = rows()[instance, "on_demand"]
    assert row["usd_per_hour"] is None
    assert says in row["missing_reason"]


@pytest.mark.parametrize("tier", EC2_TIERS[1:])
def test_a_tier_that_nobody_fetched_names_the_command_that_fills_it(tier: str) -> None:
    (row,) = [r for (name, t), r in rows().items() if (name, t) == ("p5.48xlarge", tier)]
    assert row["usd_per_hour"] is None
    assert row["fetched_at"] is None
    assert "`accelbench prices refresh --provider aws --region us-east-1" in row["missing_reason"]


def test_this_machine_and_foreign_servers_have_no_price_unless_declared() -> None:
    found = rows(also=(HERE, SERVER))
    assert found[HERE, "on_demand"]["usd_per_hour"] is None
    assert (
        found[HERE, "on_demand"]["missing_reason"]
        == "this machine has no price; declare one with --usd-per-hour"
    )
    assert "--usd-per-hour" in found[SERVER, "on_demand"]["missing_reason"]
    found = rows(also=(HERE, SERVER), declared=((HERE, 0.1),))
    assert (HERE, "on_demand") not in found
    row = found[HERE, "declared"]
    assert row["usd_per_hour"] == Decimal("0.1")
    assert (row["source"], row["provider"], row["missing_reason"]) == ("declared by the user", "local", None)
    assert row["fetched_at"] == NOON
    assert found[SERVER, "on_demand"]["usd_per_hour"] is None


def test_a_declared_price_stands_beside_the_list_price() -> None:
    found = rows(declared=(("g6e.xlarge", Decimal("1.25")),))
    assert found["g6e.xlarge", "declared"]["usd_per_hour"] == Decimal("1.25")
    assert found["g6e.xlarge", "declared"]["region"] == "unstated"
    assert found["g6e.xlarge", "on_demand"]["usd_per_hour"] == Decimal("1.861")


def test_an_unpackaged_aws_type_gets_a_reason() -> None:
    assert rows(also=("trn2.3xlarge",))["trn2.3xlarge", "on_demand"]["missing_reason"]


def test_snapshots_are_deterministic_and_ids_tell_contents_apart() -> None:
    one = price_points(DAY, at=NOON, declared=((HERE, 2.0),), also=(SERVER,))
    assert price_points(DAY, at=NOON, declared=((HERE, "2"),), also=[SERVER]).equals(one)
    assert price_points(DAY, at=NOON).equals(price_points(DAY))  # nothing declared: no clock in it
    others = [
        price_points(DAY, at=NOON),
        price_points(date(2026, 11, 22), at=NOON, declared=((HERE, 2.0),), also=(SERVER,)),
        price_points(DAY, at=NOON, declared=((HERE, 3.0),), also=(SERVER,)),
    ]
    ids = [{r["price_point_id"] for r in t.to_pylist()} for t in (one, *others)]
    assert [len(i) for i in ids] == [t.num_rows for t in (one, *others)]
    assert len(set.union(*ids)) == sum(map(len, ids))


@pytest.mark.parametrize("bad", [0, -1, "free", float("nan"), float("inf"), 1e-11, 1e10, None])
def test_a_declared_price_must_be_a_positive_number(bad: Any) -> None:
    with pytest.raises(UsageError, match=f"usd_per_hour of {HERE}"):
        price_points(DAY, declared=((HERE, bad),))


def test_declarations_for_unknown_or_repeated_instances_are_refused() -> None:
    with pytest.raises(UsageError, match=r"m5\.large"):
        price_points(DAY, declared=(("m5.large", 1),))
    with pytest.raises(UsageError, match="twice"):
        price_points(DAY, declared=((HERE, 1), (HERE, 2)))


@settings(deadline=None)
@given(st.decimals("0.0000000001", "9999999999", places=10, allow_nan=False))
def test_declared_decimals_are_exact(price: Decimal) -> None:
    assert declared_price(HERE, price) == price
    assert declared_price(HERE, str(price)) == price


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("g5.xlarge,us-east-1,free,2026-07-20,s,", "row g5.xlarge, field usd_per_hour: 'free'"),
        ("g5.xlarge,us-east-1,0,2026-07-20,s,", "field usd_per_hour: '0'"),
        ("g5.xlarge,us-east-1,,2026-07-20,s,", "field missing_reason"),
        ("g5.xlarge,us-east-1,1.0,2026-07-20,s,why", "field missing_reason"),
        ("g5.xlarge,us-east-1,1.0,July,s,", "field as_of: 'July'"),
        ("g5.xlarge,us-east-1,1.0,2026-07-20,,", "field source"),
        ("large,us-east-1,1.0,2026-07-20,s,", "row large, field instance_type"),
        ("g5.xlarge,us-east-1,1.0,2026-07-20", "row 2, field columns"),
        ("g5.xlarge,us-east-1,1.0,2026-07-20,s,\ng5.xlarge,us-east-1,1.0,2026-07-20,s,", "is given twice"),
    ],
)
def test_a_wrong_price_file_is_refused_by_row_and_field(line: str, says: str) -> None:
    with pytest.raises(packaged.PriceFileError, match=says):
        packaged.parse(f"{HEADER}\n{line}\n")
    with pytest.raises(packaged.PriceFileError, match="field header"):
        packaged.parse("instance,usd\n")


REL = 1e-9
# P 10; X 5; N_in 1000; N_out 200; X_in 5000; X_out 1000. The exact fraction, and the figure as printed.
GOLDEN = {
    "request": (cost.usd_per_request(10, 5), 10 / 18000, 0.000555555556),
    "prd_input": (cost.usd_per_1m_input_full_hour(10, 5000), 5 / 9, 0.555555556),
    "prd_output": (cost.usd_per_1m_output_full_hour(10, 1000), 25 / 9, 2.777777778),
    "total": (cost.usd_per_1m_total(10, 5000, 1000), 25 / 54, 0.462962963),
    "weighted_w4_in": ((cost.weighted_split(10, 5000, 1000) or (0, 0, 0))[0], 25 / 81, 0.308641975),
    "weighted_w4_out": ((cost.weighted_split(10, 5000, 1000) or (0, 0, 0))[2], 100 / 81, 1.234567901),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vectors(case: str) -> None:
    got, exact, printed = GOLDEN[case]
    assert got == pytest.approx(exact, rel=REL)
    assert got == pytest.approx(printed, abs=5.1e-10 if printed > 0.01 else 5.1e-13)


def test_full_hour_figures_added_bill_twice_and_the_split_does_not() -> None:
    full_in, full_out = cost.usd_per_1m_input_full_hour(10, 5000), cost.usd_per_1m_output_full_hour(10, 1000)
    assert full_in is not None
    assert full_out is not None
    assert (1000 * full_in + 200 * full_out) / 1e6 == pytest.approx(
        2 * 10 / 18000, rel=REL
    )  # prd_double_count
    split = cost.weighted_split(10, 5000, 1000)
    assert split is not None
    assert (1000 * split.input + 200 * split.output) / 1e6 == pytest.approx(10 / 18000, rel=REL)  # conserves


RATE = st.floats(1e-3, 1e6)


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), RATE, RATE, st.floats(0, 1e6), st.floats(0.1, 20), st.floats(0, 1))
def test_the_split_recovers_the_hour_once_for_every_weight(
    price: float, new: float, out: float, cached: float, weight: float, discount: float
) -> None:
    split = cost.weighted_split(
        price, new, out, cached_input_tokens_per_s=cached, output_weight=weight, cached_discount=discount
    )
    assert split is not None
    hour = (new * split.input + cached * split.cached_input + out * split.output) * 3600 / 1e6
    assert hour == pytest.approx(price, rel=REL)
    assert split.output == pytest.approx(weight * split.input, rel=REL)


def test_nothing_produced_has_no_price_and_no_price_is_assumed() -> None:
    assert cost.usd_per_request(10, 0) is None
    assert cost.usd_per_1m_output_full_hour(10, None) is None
    assert cost.usd_per_1m_total(10, 0, 0) is None
    assert cost.weighted_split(10, 0, 0) is None
    for price in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="usd_per_hour"):
            cost.usd_per_request(price, 1)
    with pytest.raises(ValueError, match="negative"):
        cost.usd_per_request(1, -1)
