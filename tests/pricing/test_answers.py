"""Valid answers that say too little: an attribute, a filter's value or a column was renamed at the source."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import refresh, snapshot, store
from accelbench_assets.pricing.answers import MOST_LOST, failed_tiers
from accelbench_assets.pricing.aws.reading import Reading
from accelbench_assets.pricing.points import CAPACITY_BLOCK, ON_DEMAND, SPOT, Point
from accelbench_assets.pricing.providers import packaged_points
from accelbench_assets.pricing.refresh import Report
from accelbench_assets.pricing.sources import Unit
from accelbench_assets.settings_groups import PricesSettings
from tests.pricing.price_server import HOME, Prices

P5 = "p5.48xlarge"
NOW = datetime.now(UTC)
BEFORE = NOW - timedelta(days=1)
WEST = "eu-west-1"


def take(lake: Lake, sources: PricesSettings, **options: Any) -> Report:
    options = {"now": NOW, **options}
    return refresh.take(lake, options["now"].date(), sources, **options)


def priced(report: Report, **wanted: Any) -> dict[tuple[str, ...], Decimal]:
    return {
        (
            r["region"],
            r["instance_type"],
            r["tier"],
            str(r["payment_option"]),
            str(r["offering_class"]),
            str(r["zone"]),
        ): r["effective_usd_per_hour"]
        for r in report.table.to_pylist()
        if r["effective_usd_per_hour"] is not None and all(r[k] == v for k, v in wanted.items())
    }


RENAMED = [
    # mode, old text, new text, unit that fails, its tiers
    ("bulk", '"Shared"', '"SharedTenancy"', "aws us-east-1 price list", "on-demand"),
    ("bulk", '"Operating System"', '"OS"', "aws us-east-1 price list", "on-demand"),
    ("bulk", '"Used"', '"InUse"', "aws us-east-1 price list", "reserved 3y"),
    ("bulk", '"LeaseContractLength"', '"Lease"', "aws us-east-1 price list", "reserved 1y"),
    ("bulk", '"Hosting"', '"Endpoint"', "aws-sagemaker us-east-1 price list", "on-demand"),
    ("bulk", "BoxUsage:", "InstanceUsage:", "aws us-east-1 savings plans", "savings 1y"),
    ("api", '"Shared"', '"SharedTenancy"', "aws us-east-1 price list", "on-demand"),
    ("api", '"component"', '"part"', "aws-sagemaker us-east-1 price list", "on-demand"),
    ("api", '"durationSeconds"', '"duration"', "aws us-east-1 savings plans", "savings 3y"),
    (
        "api",
        '"ProductDescription": "Linux/UNIX"',
        '"ProductDescription": "Linux"',
        "aws us-east-1 spot",
        "spot",
    ),
]


@pytest.mark.parametrize(("mode", "old", "new", "unit", "said"), RENAMED)
def test_what_a_renamed_name_hides_is_a_failure_and_keeps_every_price(
    lake: Lake, prices: Prices, mode: str, old: str, new: str, unit: str, said: str
) -> None:
    first = take(lake, prices.settings(aws=mode), now=BEFORE)
    assert not first.failed, [one.sentence for one in first.failed]
    prices.changed[old] = new
    second = take(lake, prices.settings(aws=mode))
    failed = {one.unit: one for one in second.failed}
    assert f"the answer has no {said} price where" in failed[unit].sentence
    assert "kept as of" in failed[unit].sentence
    assert failed[unit].last_good == BEFORE
    was, now = (
        {k: v for k, v in priced(one).items() if unit.endswith("spot") or k[2] != SPOT}
        for one in (first, second)
    )  # a mean over time moves with the time of asking
    assert now == was
    assert second.vanished == []


def test_a_tier_that_fails_leaves_the_others_of_its_answer(lake: Lake, prices: Prices) -> None:
    take(lake, prices.settings(), now=BEFORE)
    prices.changed['"LeaseContractLength"'] = '"Lease"'
    prices.changed['"77.7700000000"'] = '"78.7800000000"'
    report = take(lake, prices.settings())
    (one,) = [one for one in report.outcomes if one.unit == "aws us-east-1 price list"]
    assert one.error is None
    assert len(one.lost) == 2
    assert "not believed: the answer has no reserved 1y price where 7 were known" in one.sentence
    found = priced(report, instance_type=P5, provider="aws")
    assert found[HOME, P5, "on_demand", "None", "None", "None"] == Decimal("78.78")
    assert found[HOME, P5, "reserved_1y", "all_upfront", "standard", "None"] == Decimal(60)


def test_the_packaged_prices_are_known_too(lake: Lake, prices: Prices) -> None:
    """The very first answer is already one without anything in it."""
    prices.changed['"Shared"'] = '"SharedTenancy"'
    prices.changed['"Hosting"'] = '"Endpoint"'
    report = take(lake, prices.settings())
    said = {one.unit: one.sentence for one in report.failed}
    assert set(said) == {"aws us-east-1 price list", "aws-sagemaker us-east-1 price list"}
    assert "no on-demand price where 50 were known" in said["aws us-east-1 price list"]
    assert "where 19 were known" in said["aws-sagemaker us-east-1 price list"]
    packaged = priced(Report(snapshot.to_table(NOW.date(), packaged_points())), region=HOME)
    assert packaged == {
        k: v for k, v in priced(report, region=HOME).items() if not k[2].startswith("savings")
    }
    reasons = {
        r["missing_reason"]
        for r in report.table.to_pylist()
        if (r["region"], r["instance_type"], r["tier"], r["provider"]) == (HOME, P5, "reserved_1y", "aws")
    }
    (reason,) = reasons
    assert "not on the" not in reason
    assert "of any of the 54 types asked about, so it says nothing" in reason
    assert "accelbench prices refresh --provider aws --region us-east-1" in reason


def test_an_empty_list_of_a_region_never_known_is_a_failure(lake: Lake, prices: Prices) -> None:
    prices.changed['"Shared"'] = '"SharedTenancy"'
    report = take(lake, prices.settings(WEST))
    said = {one.unit: one.sentence for one in report.failed}
    assert set(said) == {f"aws {WEST} price list"}
    assert "nothing known from before" in said[f"aws {WEST} price list"]
    assert not any(
        "not on the on-demand price list" in str(r["missing_reason"])
        for r in report.table.to_pylist()
        if r["region"] == WEST and r["provider"] == "aws"
    )


def test_more_than_half_gone_is_a_failure_and_half_is_news(lake: Lake, prices: Prices) -> None:
    first = take(lake, prices.settings(), now=BEFORE)
    names = sorted(n for _, n, tier, *_ in priced(first, provider="aws") if tier == "on_demand")
    assert len(names) == 50
    prices.gone = {n for n in names if n != P5 and not n.startswith("g6e.xlarge")}
    prices.gone = set(sorted(prices.gone)[:26])
    second = take(lake, prices.settings())
    (one,) = second.failed
    assert "the answer lacks 26 of 50 known on-demand prices" in one.sentence
    assert priced(second) == priced(first)
    assert not second.vanished
    prices.gone = set(sorted(prices.gone)[:25])
    third = take(lake, prices.settings(), again=True)
    assert not third.failed
    assert len(third.vanished) == 25
    assert all(
        " before, none now: not on the on-demand price list of us-east-1" in one for one in third.vanished
    )
    assert len(priced(third, provider="aws", tier="on_demand")) == 25


def test_fewer_are_accepted_when_somebody_says_so_and_then_stay_accepted(lake: Lake, prices: Prices) -> None:
    take(lake, prices.settings(), now=BEFORE)
    prices.changed['"Hosting"'] = '"Endpoint"'
    report = take(lake, prices.settings(), accept_fewer=True)
    assert not report.failed
    assert not priced(report, provider="aws-sagemaker", tier="on_demand")
    assert len([one for one in report.vanished if "aws-sagemaker" in one]) == 20
    tomorrow = take(lake, prices.settings(), now=NOW + timedelta(days=1))
    assert not tomorrow.failed
    assert not tomorrow.vanished


def test_a_failed_tier_is_asked_again_and_recovers(lake: Lake, prices: Prices) -> None:
    prices.changed['"Shared"'] = '"SharedTenancy"'
    take(lake, prices.settings())
    prices.changed.clear()
    report = take(lake, prices.settings())
    assert "aws us-east-1 price list" in {one.unit for one in report.outcomes}
    assert not report.failed
    assert priced(report, instance_type=P5, tier="reserved_1y", provider="aws")


# -- the verdict alone ---------------------------------------------------------------------------------------


def unit(tier: str, provider: str = "aws", names: tuple[str, ...] = ("a", "b", "c", "d")) -> Unit:
    return Unit(provider, "r", (tier,), "list", names, {tier: "none"}, lambda at: Reading())


def point(name: str, tier: str = ON_DEMAND, usd: str | None = "1", zone: str | None = None) -> Point:
    return Point(
        "aws", "r", name, tier, zone=zone, fetched_at=NOW, usd_per_hour=None if usd is None else Decimal(usd),
        missing_reason="none" if usd is None else None,
    )  # fmt: skip


@pytest.mark.parametrize(("left", "fails"), [("abcd", False), ("ab", False), ("a", True), ("", True)])
def test_the_limit_is_half(left: str, fails: bool) -> None:
    assert Decimal("0.5") == MOST_LOST
    before = [point(name) for name in "abcd"]
    assert bool(failed_tiers(unit(ON_DEMAND), Reading([point(n) for n in left]), before)) == fails


def test_zones_that_change_their_names_are_no_loss() -> None:
    before = [point("a", SPOT, zone=zone) for zone in ("r-a", "r-b", "r-c")]
    now = [point("a", SPOT, zone=zone) for zone in ("az1", "az2", "az3")]
    assert failed_tiers(unit(SPOT), Reading(now), before) == {}
    assert failed_tiers(unit(SPOT), Reading(now[:1]), before)


def test_capacity_blocks_may_be_sold_out_but_not_unreadable() -> None:
    before = [point(name, CAPACITY_BLOCK) for name in "abc"]
    assert failed_tiers(unit(CAPACITY_BLOCK), Reading(sold_out=True), before) == {}
    assert failed_tiers(unit(CAPACITY_BLOCK), Reading([point("a", CAPACITY_BLOCK)]), before) == {}
    assert failed_tiers(unit(CAPACITY_BLOCK), Reading(), []) == {}
    assert "where 3 were known" in failed_tiers(unit(CAPACITY_BLOCK), Reading(), before)[CAPACITY_BLOCK]


def test_what_could_not_be_read_is_not_gone() -> None:
    before = [point(name) for name in "abcd"]
    reading = Reading([point("d")])
    for one in before[:3]:
        reading.refuse(one.group, "a price in EUR")
    assert failed_tiers(unit(ON_DEMAND), reading, before) == {}


def test_none_is_believed_again_where_it_was_answered_before() -> None:
    assert failed_tiers(unit(ON_DEMAND), Reading(), [])
    assert failed_tiers(unit(ON_DEMAND), Reading(), [point("a", usd=None)]) == {}
    never = replace(point("a", usd=None), fetched_at=None)
    assert failed_tiers(unit(ON_DEMAND), Reading(), [never])


def test_sold_out_blocks_by_the_api(lake: Lake, prices: Prices) -> None:
    take(lake, prices.settings(aws="api"), now=BEFORE)
    prices.changed['"CapacityBlockDurationHours": 24'] = '"CapacityBlockDurationHours": 48'
    report = take(lake, prices.settings(aws="api"))
    assert "aws us-east-1 capacity blocks" not in {one.unit for one in report.failed}
    assert report.vanished == [
        "aws us-east-1 p5.48xlarge capacity_block us-east-1a all_upfront block_24h: 44 before, none now: "
        "no capacity block is offered in us-east-1"
    ]


def test_the_answer_of_a_failure_is_kept_as_evidence(lake: Lake, prices: Prices) -> None:
    take(lake, prices.settings(), now=BEFORE)
    kept = set(lake.storage.list("facts_raw/price_points"))
    prices.changed['"Shared"'] = '"SharedTenancy"'
    take(lake, prices.settings())
    assert set(lake.storage.list("facts_raw/price_points")) > kept
    assert store.known_on(lake.storage, NOW.date())
