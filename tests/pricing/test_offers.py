"""Which known price answers a wish: the choice, its words, and the reason with its command where there is none."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import points as p
from accelbench_assets.pricing.offers import PriceBook, Wish, price_book
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.snapshot import day_points, to_table
from accelbench_assets.sqlkit.duck import query

DAY = date(2026, 11, 2)
NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
KIND = "g6e.xlarge"


def point(tier: str, usd: str | None, region: str = "eu-west-1", **more: Any) -> Point:
    given = {"fetched_at": NOW, "source": "made up", **more}
    return Point("aws", region, given.pop("instance", KIND), tier, usd_per_hour=usd and Decimal(usd), **given)


FETCHED = [
    point(p.ON_DEMAND, "2.1"),
    point(p.SPOT, "0.9", zone="euw1-az1", usd_per_hour_p90=Decimal("1.25")),
    point(p.SPOT, "0.8", zone="euw1-az3", usd_per_hour_p90=Decimal("1.5")),
    point("reserved_1y", "1.4", payment_option="no_upfront", offering_class="standard", term_hours=8760.0),
    point("reserved_1y", "0", payment_option="all_upfront", offering_class="standard", term_hours=8760.0,
          upfront_usd=Decimal("10512")),
    point("reserved_1y", "1.5", payment_option="no_upfront", offering_class="convertible", term_hours=8760.0),
    point(p.CAPACITY_BLOCK, None, zone="euw1-az1", offering_class="block_24h", upfront_usd=Decimal("72"),
          term_hours=24.0),
]  # fmt: skip


def keep(lake: Lake, fetched: list[Point] = FETCHED, day: date = DAY, **more: Any) -> str:
    points = day_points(day, fetched=fetched, at=NOW, regions=("us-east-1",), **more)
    table = to_table(day, points)
    lake.write_fact("price_points", day.isoformat(), table)
    return str(table.column("snapshot_id")[0])


def book(lake: Lake, **wish: Any) -> PriceBook:
    return price_book(lake.storage, Wish(**{"region": "eu-west-1", **wish}), now=NOW)


@pytest.mark.parametrize(
    ("wish", "usd", "terms"),
    [
        ({}, "2.1", "on demand in eu-west-1"),
        ({"tier": "spot"}, "0.8", "spot in euw1-az3, mean of 30 days, 90 % of the time at most 1.5"),
        ({"tier": "reserved_1y"}, "1.2", "reserved 1y (all upfront, standard) in eu-west-1"),
        ({"tier": "reserved_1y", "payment": "no_upfront"}, "1.4",
         "reserved 1y (no upfront, standard) in eu-west-1"),
        ({"tier": "capacity_block"}, "3", "capacity block of 24 h in euw1-az1"),
    ],
)  # fmt: skip
def test_the_cheapest_of_a_tier_is_taken_and_named(
    lake: Lake, wish: dict[str, str], usd: str, terms: str
) -> None:
    snapshot_id = keep(lake)
    found = book(lake, **wish)
    offer = found.offer(KIND)
    assert (offer.usd_per_hour, offer.terms, offer.missing_reason) == (Decimal(usd), terms, None)
    assert (offer.as_of, offer.source, found.snapshot_id) == ("2026-11-02", "made up", snapshot_id)
    (stored,) = query(
        lake,
        f"select instance_hourly_usd as usd from latest_prices where price_point_id = '{offer.price_point_id}'",
    ).to_pylist()
    assert stored["usd"] == Decimal(usd)
    assert bool(offer.warnings) == (wish.get("tier", "on_demand") != "on_demand")


def test_spot_says_what_it_is_good_for(lake: Lake) -> None:
    keep(lake)
    offer = book(lake, tier="spot").offer(KIND)
    assert "tolerates loss" in offer.warnings[0]
    assert offer.point is not None
    assert offer.point.usd_per_hour_p90 == Decimal("1.5")


def test_a_declared_price_goes_before_the_list_on_demand_and_nowhere_else(lake: Lake) -> None:
    keep(lake, declared=((KIND, "9"),))
    assert (book(lake).offer(KIND).usd_per_hour, book(lake).offer(KIND).terms) == (9, "declared by you")
    assert book(lake, tier="spot").offer(KIND).usd_per_hour == Decimal("0.8")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"region": "ap-south-1"},
         "no on_demand price in ap-south-1 is known: `accelbench prices refresh --provider aws --region ap-south-1`"),
        ({"region": "us-east-1", "tier": "spot"},
         "no spot price in us-east-1: not fetched yet: "
         "`accelbench prices refresh --provider aws --region us-east-1 --source api`"),
        ({"tier": "reserved_1y", "payment": "partial_upfront"},
         "no reserved_1y partial_upfront price in eu-west-1 is known, but there is all_upfront, no_upfront"),
        ({"as_of": date(2026, 1, 1)},
         "no on_demand price in eu-west-1 as of 2026-01-01 is known, and sources are only asked for the current day"),
        ({"tier": "savings_3y"},
         "no savings_3y price in eu-west-1: not fetched yet: "
         "`accelbench prices refresh --provider aws --region eu-west-1`"),
    ],
)  # fmt: skip
def test_without_a_price_the_reason_names_the_wish_and_the_command(
    lake: Lake, wish: dict[str, Any], reason: str
) -> None:
    keep(lake)
    offer = book(lake, **wish).offer(KIND)
    assert (offer.usd_per_hour, offer.missing_reason, offer.warnings) == (None, reason, ())


def test_without_a_snapshot_the_packaged_prices_and_never_those_of_another_region(lake: Lake) -> None:
    here = book(lake, region="us-east-1")
    offer = here.offer("g6.xlarge")
    assert (here.snapshot_id, offer.price_point_id) == (None, None)
    assert (offer.usd_per_hour, offer.as_of) == (Decimal("0.8048"), "2026-07-20")
    assert here.offer("p5e.48xlarge").missing_reason == (
        "not on the on-demand price list of us-east-1; sold as capacity blocks"
    )
    there = book(lake).offer("g6.xlarge")
    assert there.usd_per_hour is None
    assert "`accelbench prices refresh --provider aws --region eu-west-1`" in str(there.missing_reason)
    assert book(lake, region="us-east-1", as_of=date(2026, 7, 19)).offer("g6.xlarge").usd_per_hour is None


def test_as_of_a_day_takes_the_last_snapshot_up_to_it(lake: Lake) -> None:
    keep(lake)
    keep(lake, [point(p.ON_DEMAND, "2.5")], date(2026, 11, 4))
    for day, usd in ((2, "2.1"), (3, "2.1"), (4, "2.5"), (30, "2.5")):
        assert book(lake, as_of=date(2026, 11, day)).offer(KIND).usd_per_hour == Decimal(usd)


def test_two_snapshots_of_a_day_count_as_in_the_mart(lake: Lake) -> None:
    """Whoever was asked last counts, whole, also where the last word has never heard of it."""
    late = NOW.replace(hour=20)
    keep(lake, [point(p.SPOT, "0.7", zone="euw1-az2", fetched_at=late), point(p.ON_DEMAND, "2.1")])
    keep(lake, [*FETCHED, point(p.ON_DEMAND, "5", instance="g6.xlarge", fetched_at=late.replace(hour=21))])
    for tier in ("on_demand", "spot", "reserved_1y"):
        found = book(lake, tier=tier)
        rows = query(
            lake,
            "select price_point_id as id, instance_hourly_usd as usd from latest_prices where provider = 'aws' "
            f"and tier = '{tier}' and region = 'eu-west-1' and instance_type = '{KIND}' "
            "and instance_hourly_usd is not null order by 2, 1 limit 1",
        ).to_pylist()
        offer = found.offer(KIND)
        assert [{"id": offer.price_point_id, "usd": offer.usd_per_hour}] == rows, tier
    assert book(lake, tier="spot").offer(KIND).usd_per_hour == Decimal("0.7"), "az3 was the earlier answer"


@pytest.mark.parametrize(
    ("usd", "more", "says"),
    [
        ("0", {}, "is none"),
        ("2000000", {}, "over a million"),
        ("3", {"effective_from": datetime(2026, 12, 1, tzinfo=UTC)}, "not in force yet"),
    ],
)
def test_what_the_mart_does_not_count_is_no_price_here_either(
    lake: Lake, usd: str, more: dict[str, Any], says: str
) -> None:
    keep(lake, [point(p.ON_DEMAND, usd, **more)])
    offer = book(lake).offer(KIND)
    assert offer.usd_per_hour is None
    assert says in str(offer.missing_reason)
    text = "select missing_reason as r from latest_prices where tier = 'on_demand' and region = 'eu-west-1'"
    (row,) = query(lake, f"{text} and instance_type = '{KIND}'").to_pylist()
    assert says in row["r"]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"tier": "ondemand"}, "--tier: 'ondemand' is not one of on_demand, reserved_1y"),
        ({"tier": "declared"}, "--tier: 'declared' is not one of"),
        ({"region": "Frankfurt"}, "--region: 'Frankfurt' is not the name"),
        ({"payment": "cash", "tier": "reserved_1y"}, "--payment: 'cash' is not one of no_upfront"),
        ({"payment": "all_upfront"}, "--payment: on_demand is paid in one way"),
    ],
)
def test_a_wish_that_nothing_can_answer_is_refused(wish: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Wish(**wish)
