"""Savings Plans rates, spot history, capacity blocks: each answer's shape, and the arithmetic on it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.pricing.aws.blocks import read_offerings, sold_by_block
from accelbench_assets.pricing.aws.items import usage_instance
from accelbench_assets.pricing.aws.reading import Reading, Stamp
from accelbench_assets.pricing.aws.savings import read_rates
from accelbench_assets.pricing.aws.spot import read_history, weigh
from accelbench_assets.pricing.points import Group
from tests.pricing.price_server import document

AT = datetime(2026, 11, 22, 5, tzinfo=UTC)
START = AT - timedelta(days=30)
STAMP = Stamp(AT, "a test", "00")
P5 = "p5.48xlarge"


def rates(results: Any, provider: str = "aws") -> Reading:
    wanted = frozenset({P5, f"ml.{P5}"})
    return read_rates(results, provider=provider, region="us-east-1", wanted=wanted, stamp=STAMP)


def results() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document("savings_rates.json")["searchResults"]
    return found


def test_savings_rates_by_plan_term_and_payment() -> None:
    reading = rates(results())
    found = {(p.tier, p.payment_option, p.offering_class): p for p in reading.points}
    assert len(found) == len(reading.points) == 12
    point = found["savings_3y", "all_upfront", "ec2_instance"]
    assert (point.usd_per_hour, point.upfront_usd, point.term_hours) == (Decimal("33.5"), None, 26280.0)
    assert point.effective_usd_per_hour == Decimal("33.5")  # the rate has the upfront commitment in it
    assert found["savings_1y", "no_upfront", "compute"].usd_per_hour == Decimal("60.5")
    assert {p.provider for p in reading.points} == {"aws"}
    assert not reading.unread
    sagemaker = rates(results(), "aws-sagemaker").points
    assert {(p.instance_type, p.offering_class) for p in sagemaker} == {(f"ml.{P5}", "sagemaker")}
    assert len(sagemaker) == 6


def test_windows_dedicated_and_unused_rates_are_passed_over() -> None:
    assert {"90.90", "91.91", "92.92"} < {r["rate"] for r in results()}
    assert not {Decimal("90.90"), Decimal("91.91"), Decimal("92.92")} & {
        p.usd_per_hour for p in rates(results()).points
    }


@pytest.mark.parametrize(
    ("usage", "instance"),
    [
        (f"BoxUsage:{P5}", P5),
        (f"USE2-BoxUsage:{P5}", P5),
        (f"EU-BoxUsage:{P5}", P5),
        (f"UnusedBox:{P5}", ""),
        (f"USE2-DedicatedUsage:{P5}", ""),
        (f"XBoxUsage:{P5}", ""),
        ("", ""),
    ],
)
def test_usage_types(usage: str, instance: str) -> None:
    assert usage_instance(usage, "aws") == instance


@pytest.mark.parametrize(
    "change",
    [{"rate": "cheap"}, {"rate": None}, {"unit": "Request"}, {"rate": "-1"}],
)
def test_a_rate_that_cannot_be_read_refuses_its_tier(change: dict[str, Any]) -> None:
    changed = results()
    changed[0].update(change)
    reading = rates(changed)
    assert Group("aws", "us-east-1", P5, "savings_1y") in reading.unread
    assert {p.tier for p in reading.points} == {"savings_3y"}


def test_an_unknown_plan_is_passed_over_and_two_rates_are_refused() -> None:
    changed = results()
    changed[0]["savingsPlanOffering"]["planType"] = "Database"
    assert len(rates(changed).points) == 11
    assert rates(changed).odd
    twin = copy.deepcopy(results()[0])
    twin["rate"] = "1.00"
    assert "differ" in rates([*results(), twin]).unread[Group("aws", "us-east-1", P5, "savings_1y")]


# -- spot ----------------------------------------------------------------------------------------------------


def quote(days_ago: float, price: str) -> tuple[datetime, Decimal]:
    return AT - timedelta(days=days_ago), Decimal(price)


@pytest.mark.parametrize(
    ("quotes", "mean", "p90"),
    [
        ([quote(40, "14"), quote(10, "20")], "16", "20"),  # 20 days at 14, 10 days at 20
        ([quote(40, "14"), quote(2, "20")], "14.4", "14"),  # the last two days are less than a tenth
        ([quote(33, "30.3")], "30.3", "30.3"),  # one quote from before the window holds all of it
        ([quote(6, "1"), quote(3, "3")], "2", "3"),  # nothing known before: only the known time counts
        ([quote(40, "9"), quote(35, "5")], "5", "5"),
    ],
)
def test_spot_is_weighted_by_time(quotes: list[tuple[datetime, Decimal]], mean: str, p90: str) -> None:
    for order in (quotes, quotes[::-1]):
        found = weigh(order, START, AT)
        assert found is not None
        assert found.mean == Decimal(mean)
        assert found.p90 == Decimal(p90)


def test_a_quote_of_the_future_or_none_has_no_price() -> None:
    assert weigh([], START, AT) is None
    assert weigh([(AT + timedelta(hours=1), Decimal(3))], START, AT) is None


@given(st.lists(st.tuples(st.floats(0, 90), st.decimals("0.01", "100", places=4)), min_size=1, max_size=12))
@settings(deadline=None)
def test_mean_and_quantile_lie_among_the_quotes(found: list[tuple[float, Decimal]]) -> None:
    weighted = weigh([quote(days, str(price)) for days, price in found], START, AT)
    prices = [price for _, price in found]
    if weighted is not None:
        assert min(prices) <= weighted.mean <= max(prices)
        assert weighted.p90 in prices
        assert START <= weighted.since < AT


def history(entries: Any) -> Reading:
    return read_history(entries, region="us-east-1", wanted=frozenset({P5}), start=START, end=AT, stamp=STAMP)


def entries() -> list[dict[str, Any]]:
    return [
        {**{k: v for k, v in q.items() if k != "daysAgo"}, "Timestamp": AT - timedelta(days=q["daysAgo"])}
        for q in document("spot_history.json")["SpotPriceHistory"]
    ]


def test_spot_history_field_by_field() -> None:
    found = {p.zone: p for p in history(entries()).points}
    assert set(found) == {"use1-az1", "use1-az2"}
    point = found["use1-az1"]
    assert (point.usd_per_hour, point.usd_per_hour_p90) == (Decimal(16), Decimal(20))
    assert point.to_row()["usd_per_hour_p90"] == Decimal(20)
    assert (point.tier, point.instance_type, point.effective_from) == ("spot", P5, START)
    without_id = [{k: v for k, v in e.items() if k != "AvailabilityZoneId"} for e in entries()]
    assert {p.zone for p in history(without_id).points} == {"us-east-1a", "us-east-1b"}


def test_odd_quotes_refuse_the_type() -> None:
    for change in (
        {"SpotPrice": "0"},
        {"SpotPrice": "?"},
        {"Timestamp": None},
        {"AvailabilityZoneId": "", "AvailabilityZone": ""},
    ):
        changed = entries()
        changed[0].update(change)
        reading = history(changed)
        assert not reading.points
        assert set(reading.unread) == {Group("aws", "us-east-1", P5, "spot")}
    windows = [{**e, "ProductDescription": "Windows"} for e in entries()]
    assert history(windows) == Reading()


# -- capacity blocks -----------------------------------------------------------------------------------------


def offerings() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document("capacity_blocks.json")["CapacityBlockOfferings"]
    return found


def blocks(found: Any) -> Reading:
    return read_offerings(found, region="us-east-1", wanted=frozenset({P5}), stamp=STAMP)


def test_the_cheapest_block_of_a_zone_and_length() -> None:
    (point,) = blocks(offerings()).points
    assert (point.upfront_usd, point.usd_per_hour, point.term_hours) == (Decimal(1056), None, 24.0)
    assert point.effective_usd_per_hour == Decimal(44)
    assert (point.zone, point.offering_class, point.payment_option) == (
        "us-east-1a",
        "block_24h",
        "all_upfront",
    )
    assert point.sku == "cb-synthetic-2"
    assert point.effective_from == datetime(2026, 11, 27, 11, 30, tzinfo=UTC)


def test_a_block_of_several_instances_and_odd_minutes() -> None:
    offering = {
        **offerings()[0],
        "InstanceCount": 4,
        "UpfrontFee": "4266.24",
        "CapacityBlockDurationMinutes": 30,
    }
    (point,) = blocks([offering]).points
    assert point.upfront_usd == Decimal("1066.56")
    assert point.term_hours == 24.5
    assert point.offering_class == "block_24.5h"
    assert point.effective_usd_per_hour == Decimal("43.5330612245")


@pytest.mark.parametrize(
    "change",
    [
        {"InstanceCount": 0},
        {"UpfrontFee": "0"},
        {"UpfrontFee": None},
        {"CapacityBlockDurationHours": 0},
        {"CapacityBlockDurationHours": "24"},
        {"CurrencyCode": "EUR"},
        {"AvailabilityZone": ""},
    ],
)
def test_odd_offerings_refuse_the_type(change: dict[str, Any]) -> None:
    reading = blocks([offerings()[1], {**offerings()[0], **change}])
    assert not reading.points
    assert set(reading.unread) == {Group("aws", "us-east-1", P5, "capacity_block")}


def test_ultraservers_and_dedicated_blocks_are_other_products() -> None:
    assert blocks([{**offerings()[0], "UltraserverType": "u-p6e"}]) == Reading()
    assert blocks([{**offerings()[0], "Tenancy": "dedicated"}]) == Reading()
    assert sold_by_block("trn2.48xlarge")
    assert sold_by_block("p6-b200.48xlarge")
    assert not sold_by_block("g6e.xlarge")


def test_an_offering_of_several_segments_is_another_product() -> None:
    segment = {"InstanceType": P5, "AvailabilityZone": "us-east-1a", "InstanceCount": 1}
    assert blocks([{**offerings()[0], "CapacityBlockOfferingSegments": [segment, segment]}]) == Reading()
    assert blocks([{**offerings()[0], "CapacityBlockOfferingSegments": [segment]}]).points


def test_a_rate_of_another_operation_is_passed_over() -> None:
    """As in the public files: what is installed on the machine has a suffix, and its own rate."""
    other = copy.deepcopy(results()[0])
    other.update({"operation": "RunInstances:0004", "rate": "99.00"})
    assert rates([*results(), other]).points == rates(results()).points
    assert not rates([*results(), other]).unread
