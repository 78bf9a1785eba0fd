"""Prices nobody would believe: never a price in the snapshot, never dropped without a word."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import merge, packaged, refresh, sanity
from accelbench_assets.pricing.plausible import (
    MOST_ACCELERATORS,
    PER_ACCELERATOR,
    REGIONAL,
    implausible,
    short,
)
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.providers import packaged_points
from accelbench_assets.settings_groups import PricesSettings
from tests.pricing.price_server import HOME, Prices

P5 = "p5.48xlarge"
AT = datetime(2026, 11, 22, 5, tzinfo=UTC)
NOW = datetime.now(UTC)
BEFORE = NOW - timedelta(days=1)
PACKAGED = Decimal("55.04")
WEST = "us-west-2"
OTHERS = (
    "us-east-2",
    "eu-west-1",
    "eu-central-1",
    "eu-north-1",
    "ap-northeast-1",
    "ap-southeast-2",
    "ap-south-1",
)


def point(
    usd: str | Decimal, region: str = WEST, name: str = P5, tier: str = "on_demand", **fields: Any
) -> Point:
    columns: dict[str, Any] = {"provider": "aws", "fetched_at": AT, **fields}
    return Point(region=region, instance_type=name, tier=tier, usd_per_hour=Decimal(usd), **columns)


def held(*points: Point, package: bool = True) -> dict[int, str]:
    facts = packaged_points() if package else []
    return implausible([*points, *facts], facts)


@pytest.mark.parametrize("usd", ["0.0001", "983.2", "5", "20", "140"])
def test_a_lone_absurd_price_of_a_region_never_fetched_is_held_against_the_package(usd: str) -> None:
    (said,) = held(point(usd)).values()
    assert said.startswith(f"implausible: {usd} USD/h is ")
    assert not held(point("55.04"))
    assert not held(point("98.32"))  # 1.8 of the packaged price: it was cut since, elsewhere


def test_the_words_have_the_price_and_what_it_is_held_against() -> None:
    others = [point("60", region) for region in OTHERS]
    assert held(point("20"), *others) == {
        0: "implausible: 20 USD/h is 0.33 of 60 USD/h, the median of 8 other regions (0.4 to 2.5 is believed)"
    }
    assert held(point("0.0001"), *others)[0] == (
        "implausible: 0.0001 USD/h is 0.0000017 of 60 USD/h, the median of 8 other regions (0.4 to 2.5 is believed)"
    )
    own = held(point("20", HOME), *others)[0]  # the packaged price of the region itself is one more reference
    assert "the median of 7 other regions and the package" in own


@pytest.mark.parametrize("region", OTHERS)
def test_one_wrong_price_does_not_make_its_neighbours_look_wrong(region: str) -> None:
    for wrong in ("20", "400"):
        good = [point("55.04", other) for other in OTHERS if other != region]
        assert set(held(point(wrong, region), *good)) == {0}
        assert set(held(point(wrong, region), point("55.04", WEST))) == {0}
        assert set(held(point("55.04", WEST), point(wrong, region))) == {1}


def test_two_that_contradict_each_other_are_both_not_believed() -> None:
    new = {"name": "p9.48xlarge"}  # no package, no count of accelerators
    assert set(held(point("60", WEST, **new), point("12", "eu-west-1", **new))) == {0, 1}
    assert set(held(point("60", WEST, **new), point("12", "eu-west-1", **new), point("58", HOME, **new))) == {
        1
    }
    assert not held(point("60", WEST, **new), point("50", "eu-west-1", **new))


def test_a_type_without_any_reference_has_bounds_by_accelerator() -> None:
    low, high = PER_ACCELERATOR
    for usd, wrong in (
        (low * 8, False),
        (low * 8 - Decimal("0.0001"), True),
        (high * 8, False),
        (high * 8 + 1, True),
    ):
        found = held(point(usd, name="p5e.48xlarge"))  # packaged without a price, 8 accelerators
        assert set(found) == ({0} if wrong else set())
        assert all("USD an accelerator-hour (0.05 to 100 is believed)" in said for said in found.values())
    for usd, wrong in (
        (low, False),
        (low - Decimal("0.0001"), True),
        (high * MOST_ACCELERATORS, False),
        (high * MOST_ACCELERATORS + 1, True),
    ):
        assert bool(held(point(usd, name="p9.48xlarge"))) == wrong


@pytest.mark.parametrize(
    ("tier", "usd", "wrong"),
    [
        ("spot", "100", False), ("spot", "100.01", True), ("spot", "2", False), ("spot", "1.99", True),
        ("reserved_1y", "120", False), ("reserved_1y", "120.01", True), ("reserved_3y", "20", False),
        ("reserved_3y", "19.99", True), ("savings_1y", "120.01", True), ("savings_3y", "19.99", True),
        ("capacity_block", "10", False), ("capacity_block", "9.99", True), ("capacity_block", "200.01", True),
        ("declared", "0.0001", False),
    ],
)  # fmt: skip
def test_other_tiers_are_held_against_on_demand(tier: str, usd: str, wrong: bool) -> None:
    found = held(point("100"), point(usd, tier=tier))
    assert set(found) == ({1} if wrong else set())
    if wrong:
        assert "of 100 USD/h, the on-demand price in the region" in found[1]


def test_a_wrong_on_demand_price_is_no_measure_of_the_others() -> None:
    points = [point("0.0001"), point("50", tier="reserved_1y"), point("20", tier="spot")]
    assert set(held(*points)) == {0}
    assert set(held(*points, point("0.1", tier="spot", zone="b"))) == {0, 3}
    assert "on demand (0.008 to 2.5 is believed)" in held(*points, point("0.1", tier="spot", zone="b"))[3]


def test_an_upfront_payment_is_told_with_its_parts() -> None:
    term: dict[str, Any] = {
        "upfront_usd": Decimal(3_000_000),
        "term_hours": 8760.0,
        "payment_option": "partial_upfront",
    }
    (said,) = held(point("55.04"), point("1", tier="reserved_1y", **term)).values()
    assert "(1 USD/h and 3000000 USD upfront for 8760 h)" in said


def test_sagemaker_has_its_own_prices_or_those_of_its_machine() -> None:
    ml = {"name": f"ml.{P5}", "provider": "aws-sagemaker"}
    assert not held(point("88.08", **ml))
    assert "of 113.068 USD/h, the price in one other region" in held(point("20", **ml))[0]
    assert "of 113.068 USD/h, the packaged price" in held(point("20", HOME, **ml))[0]
    new = {"name": "ml.g6e.xlarge", "provider": "aws-sagemaker"}  # not packaged
    assert not held(point("2", **new), point("1.861", name="g6e.xlarge"))
    assert "the EC2 price in the region" in held(point("20", **new), point("1.861", name="g6e.xlarge"))[0]


def test_packaged_facts_are_not_judged_and_believe_each_other() -> None:
    assert held() == {}
    assert held(*(point(PACKAGED, region) for region in OTHERS)) == {}


@given(
    st.decimals("0.01", "900", places=2), st.lists(st.decimals("30", "70", places=2), min_size=3, max_size=8)
)
@settings(deadline=None)
def test_what_is_believed_is_within_the_bounds_of_the_others(usd: Decimal, others: list[Decimal]) -> None:
    points = [point(usd), *(point(one, region) for one, region in zip(others, OTHERS, strict=False))]
    found = held(*points, package=False)
    assert not found.keys() - {0}
    assert (0 in found) == (not REGIONAL.low * (m := _median(others)) <= usd <= REGIONAL.high * m)


def _median(values: list[Decimal]) -> Decimal:
    ordered, half = sorted(values[: len(OTHERS)]), min(len(values), len(OTHERS)) // 2
    odd = min(len(values), len(OTHERS)) % 2
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2


def test_two_digits_and_never_an_exponent() -> None:
    assert [short(Decimal(v)) for v in ("0.0000018168", "17.864", "1786.4", "1")] == [
        "0.0000018",
        "18",
        "1800",
        "1",
    ]


# -- in the snapshot -----------------------------------------------------------------------------------------


def rows(report: refresh.Report, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in report.table.to_pylist() if all(r[k] == v for k, v in wanted.items())]


@pytest.mark.parametrize("usd", ["0.0001000000", "983.2000000000"])
def test_the_row_stays_with_its_raw_price_in_the_reason(lake: Lake, prices: Prices, usd: str) -> None:
    prices.changed['"77.7700000000"'] = f'"{usd}"'
    sources = prices.settings("eu-west-1")
    report = refresh.take(lake, NOW.date(), sources, now=NOW)
    (row,) = rows(report, region="eu-west-1", instance_type=P5, tier="on_demand")
    said = f"implausible: {Decimal(usd).normalize():f} USD/h is "
    assert row["missing_reason"].startswith(said)
    assert (row["usd_per_hour"], row["effective_usd_per_hour"]) == (None, None)
    assert (row["fetched_at"], row["sku"]) == (NOW, "SYNP5ONDEMAND000")
    (finding,) = report.implausible
    assert finding.startswith(f"aws eu-west-1 {P5} on_demand: {said}")
    assert report.impossible == []
    assert (
        len(rows(report, region="eu-west-1", instance_type=P5, tier="reserved_1y", missing_reason=None)) == 6
    )


def test_a_price_that_was_believed_before_is_named_and_not_repeated(lake: Lake, prices: Prices) -> None:
    sources = prices.settings()
    refresh.take(lake, BEFORE.date(), sources, now=BEFORE)
    prices.changed['"77.7700000000"'] = '"7.7770000000"'
    report = refresh.take(lake, NOW.date(), sources, now=NOW)
    (row,) = rows(report, region=HOME, instance_type=P5, tier="on_demand")
    assert row["usd_per_hour"] is None
    assert row["missing_reason"].startswith(
        "implausible: 7.777 USD/h is 0.14 of 55.04 USD/h, the packaged price"
    )
    assert row["missing_reason"].endswith(f"; before it was 77.77 ({BEFORE.date()})")
    assert len(report.vanished) == 1
    later = refresh.take(lake, NOW.date(), PricesSettings(), now=NOW + timedelta(minutes=1))
    assert rows(later, region=HOME, instance_type=P5, tier="on_demand")[0]["usd_per_hour"] is None
    prices.changed.clear()
    healed = refresh.take(lake, NOW.date(), sources, now=NOW + timedelta(minutes=2), again=True)
    assert rows(healed, region=HOME, instance_type=P5, tier="on_demand")[0]["usd_per_hour"] == Decimal(
        "77.77"
    )


def test_a_new_packaged_price_that_jumps_is_told(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade brings another ``on_demand.csv``; nobody was asked anything."""
    refresh.take(lake, BEFORE.date(), PricesSettings(), now=BEFORE)
    assert refresh.take(lake, NOW.date(), PricesSettings(), now=NOW).jumps == []
    text = packaged.FILE.read_text(encoding="utf-8")
    newer = text.replace("55.040000,2026-07-20", "41.000000,2026-10-01").replace(
        "6.880000,2026-07-20", "6.000000,2026-10-01"
    )
    assert newer != text
    monkeypatch.setattr("accelbench_assets.pricing.amazon.on_demand", lambda: packaged.parse(newer))
    report = refresh.take(lake, NOW.date(), PricesSettings(), now=NOW + timedelta(minutes=1))
    assert report.jumps == ["aws us-east-1 p5.48xlarge on_demand: 55.04 to 41 (-26 %)"]
    (row,) = rows(report, region=HOME, instance_type=P5, tier="on_demand")
    assert (row["usd_per_hour"], row["fetched_at"].date()) == (Decimal(41), date(2026, 10, 1))
    again = refresh.take(lake, NOW.date(), PricesSettings(), now=NOW + timedelta(minutes=2))
    assert again.jumps == report.jumps


# -- what is gone --------------------------------------------------------------------------------------------


def test_vanished_prices_with_their_reason() -> None:
    before = [
        point("1", name="a"), point("2", name="b"), point("3", name="c", tier="declared"),
        point("4", name="d", tier="spot", zone="z1"), point("5", name="d", tier="spot", zone="z2"),
        point("6", name="e", tier="spot", zone="z1"),
        point("7", name="f", tier="reserved_1y", payment_option="no_upfront"),
        point("8", name="f", tier="reserved_1y", payment_option="all_upfront"),
    ]  # fmt: skip
    after = [
        point("1", name="a"), merge.blanked(point("1", name="b"), "not listed"),
        point("4", name="d", tier="spot", zone="z3"), merge.blanked(point("1", name="e", tier="spot"), "not quoted"),
        point("8", name="f", tier="reserved_1y", payment_option="all_upfront"),
    ]  # fmt: skip
    assert sanity.vanished(before, after) == [
        "aws us-west-2 b on_demand: 2 before, none now: not listed",
        "aws us-west-2 e spot z1: 6 before, none now: not quoted",
        "aws us-west-2 f reserved_1y no_upfront: 7 before, none now: no longer in the answer",
    ]
    assert sanity.vanished(after, after) == []


def test_a_declared_price_is_no_jump() -> None:
    assert sanity.jumps([point("1", tier="declared")], [point("9", tier="declared")]) == []
