"""Money, moments and the effective hourly price."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.pricing.merge import newest
from accelbench_assets.pricing.points import HOURS_1Y, HOURS_3Y, Point, effective, money, utc
from accelbench_assets.pricing.sanity import at_odds, impossible, jumps

AT = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hourly", "upfront", "hours", "price"),
    [
        ("3", "26280", HOURS_1Y, "6"),
        ("0", "105120", HOURS_3Y, "4"),
        ("6.5", None, None, "6.5"),
        ("6.5", "0", HOURS_1Y, "6.5"),
        (None, "1056", 24.0, "44"),
        (None, None, None, None),
        ("0", "1", HOURS_1Y, "0.0001141553"),
    ],
)
def test_effective_price(
    hourly: str | None, upfront: str | None, hours: float | None, price: str | None
) -> None:
    def amount(text: str | None) -> Decimal | None:
        return None if text is None else Decimal(text)

    assert effective(amount(hourly), amount(upfront), hours) == amount(price)


def test_an_upfront_payment_without_a_term_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a term"):
        effective(Decimal(1), Decimal(1), None)


@given(
    st.decimals("0", "1000", places=6),
    st.decimals("0", "9999999", places=2),
    st.sampled_from([HOURS_1Y, HOURS_3Y]),
)
def test_the_term_pays_for_itself(hourly: Decimal, upfront: Decimal, hours: float) -> None:
    price = effective(hourly, upfront, hours)
    assert price is not None
    assert math.isclose(
        float(price) * hours, float(upfront) + float(hourly) * hours, rel_tol=1e-9, abs_tol=1e-5
    )


@pytest.mark.parametrize(
    ("value", "usd"),
    [("0.0000000000", "0"), (" 1.5 ", "1.5"), (7, "7"), ("-0", "0"), ("0.12345678905", "0.1234567890")],
)
def test_money(value: Any, usd: str) -> None:
    assert money(value) == Decimal(usd)


@pytest.mark.parametrize("value", ["", "x", "NaN", "Infinity", "-1", 10**10, "1e-11", None, True, [], {}])
def test_what_is_no_money(value: Any) -> None:
    assert money(value) is None


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.lists(st.integers()))
def test_money_never_fails(value: Any) -> None:
    found = money(value)
    assert found is None or 0 <= found < 10**10


def test_moments() -> None:
    assert utc("2026-11-01T00:00:00Z") == datetime(2026, 11, 1, tzinfo=UTC)
    assert utc("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    assert utc("2026-11-01T02:00:00+02:00") == datetime(2026, 11, 1, tzinfo=UTC)
    assert utc(datetime(2026, 11, 1)) == datetime(2026, 11, 1, tzinfo=UTC)
    for odd in ("", "yesterday", None, 5, "0001-01-01T00:00:00+23:00"):
        assert utc(odd) is None


def point(usd: str | None = "1", **changes: Any) -> Point:
    fields: dict[str, Any] = {
        "provider": "aws", "region": "r", "instance_type": "t", "tier": "on_demand", "fetched_at": AT,
        "usd_per_hour": None if usd is None else Decimal(usd), **changes,
    }  # fmt: skip
    return Point(**fields)


def test_rows_survive_the_round_trip() -> None:
    one = point("2", upfront_usd=Decimal(8760), term_hours=8760.0, tier="reserved_1y", zone="z")
    assert Point.from_row(one.to_row()) == one
    assert one.to_row()["effective_usd_per_hour"] == Decimal(3)


def test_the_newest_answer_of_a_group_counts_whole() -> None:
    old = [point("1", tier="spot", zone="a", fetched_at=AT), point("2", tier="spot", zone="b", fetched_at=AT)]
    new = [point("3", tier="spot", zone="a", fetched_at=AT + timedelta(hours=1))]
    assert newest(old, new) == newest(new, old) == new  # zone b is gone
    blank = [point(None, tier="spot", fetched_at=None, missing_reason="not asked")]
    assert newest(old, blank) == newest(blank, old) == old
    assert newest([point("1")], [point("2")]) == [point("2")]  # asked at one moment: the later source


def test_impossible_prices() -> None:
    points = [
        *(point(p) for p in ("0", "0.0000000001", "1000", "1000.0000000001")),
        point(None, missing_reason="why"), point(None),
    ]  # fmt: skip
    assert sorted(impossible(points)) == [0, 3, 5]


@pytest.mark.parametrize(
    ("tier", "usd", "odd"),
    [
        ("spot", "15.01", False), ("reserved_3y", "10", False), ("reserved_1y", "10.01", True),
        ("savings_1y", "10.01", True), ("capacity_block", "99", False), ("declared", "99", False),
    ],
)  # fmt: skip
def test_prices_at_odds_with_on_demand(tier: str, usd: str, odd: bool) -> None:
    assert bool(at_odds([point("10"), point(usd, tier=tier)])) == odd
    assert not at_odds([point("10", region="elsewhere"), point(usd, tier=tier)])
    assert not at_odds([point(None, missing_reason="none"), point(usd, tier=tier)])


@pytest.mark.parametrize(("now", "jumped"), [("1.2", False), ("1.21", True), ("0.8", False), ("0.79", True)])
def test_jumps(now: str, jumped: bool) -> None:
    assert bool(jumps([point("1")], [point(now)])) == jumped
    assert not jumps([point("1")], [point("9", zone="another")])
    assert not jumps([point(None, missing_reason="none")], [point("9")])
