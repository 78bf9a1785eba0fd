"""Estimates: instances × hours × price, and a refusal wherever nobody knows the price."""

from __future__ import annotations

from decimal import Decimal

import pytest

from accelbench_assets.budget.estimate import estimate, lake_prices
from accelbench_assets.errors import LaunchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.packaged import on_demand
from tests.support.runs import make_price, put_prices

HERE = "us-east-1"


def test_the_packaged_price_of_all_instances_until_the_deadline() -> None:
    known = on_demand()["p5.48xlarge"]
    found = estimate("p5.48xlarge", instances=2, region=HERE, seconds=5400)
    assert known.usd_per_hour is not None
    assert found.usd_per_hour == 2 * known.usd_per_hour
    assert found.usd == 3 * known.usd_per_hour
    assert found.hours == Decimal("1.5")
    assert str(known.as_of) in found.price_source


def test_a_declared_price_wins_and_is_needed_nowhere_else() -> None:
    found = estimate("g6e.xlarge", instances=1, region="eu-west-9", seconds=1800, declared=3.3)
    assert (found.usd_per_hour, found.usd) == (Decimal("3.3"), Decimal("1.65"))
    assert found.price_source == "declared by the user"


def test_amounts_are_decimals_and_rounded_up() -> None:
    found = estimate("g6e.xlarge", instances=3, region=HERE, seconds=1, declared=Decimal("0.1"))
    assert found.usd == Decimal("0.0000833334")
    tiny = estimate("g6e.xlarge", instances=1, region=HERE, seconds=0.001, declared=Decimal("0.0000000001"))
    assert tiny.usd == Decimal("0.0000000001"), "never nothing"


@pytest.mark.parametrize(
    ("instance", "region", "reason"),
    [
        ("p5e.48xlarge", HERE, "sold as capacity blocks"),
        ("trn2.48xlarge", HERE, "sold as capacity blocks"),
        ("g6e.xlarge", "eu-central-1", "the packaged prices are those of us-east-1"),
        ("g6e.xyzlarge", HERE, "no on-demand price of it is packaged"),
    ],
)
def test_an_unknown_price_refuses_the_run(instance: str, region: str, reason: str) -> None:
    with pytest.raises(LaunchError) as refused:
        estimate(instance, instances=1, region=region, seconds=3600)
    assert refused.value.code == "no_price"
    assert instance in refused.value.message
    assert region in refused.value.message
    assert reason in refused.value.message
    assert refused.value.hint == "Declare it with --usd-per-hour."


def test_the_lake_may_know_a_newer_price_or_one_of_another_region(local_lake: Lake) -> None:
    old = make_price("g6e.xlarge", "2", region="eu-west-1", fetched_at="2026-10-01T00:00:00+00:00")
    new = make_price("g6e.xlarge", "3", region="eu-west-1", fetched_at="2026-11-01T00:00:00+00:00")
    spot = make_price("g6e.xlarge", "1", region="eu-west-1", tier="spot")
    gap = make_price("p5e.48xlarge", None, missing_reason="no offer")
    later = make_price(
        "g6e.xlarge", "4", region="eu-west-1", fetched_at="2026-11-02T00:00:00+00:00",
        effective_from="2026-12-01T00:00:00+00:00",
    )  # fmt: skip
    put_prices(local_lake, [old, new, later, spot, gap])
    lookup = lake_prices(local_lake)
    found = estimate("g6e.xlarge", instances=2, region="eu-west-1", seconds=3600, lookup=lookup)
    assert found.usd == Decimal(6)
    assert new["price_point_id"] in found.price_source
    packaged = estimate("g6e.xlarge", instances=1, region=HERE, seconds=3600, lookup=lookup)
    assert packaged.usd == on_demand()["g6e.xlarge"].usd_per_hour, "the lookup knows nothing of this region"
    with pytest.raises(LaunchError, match="p5e"):
        estimate("p5e.48xlarge", instances=1, region=HERE, seconds=3600, lookup=lookup)


@pytest.mark.parametrize(
    "wrong",
    [
        {"instances": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"declared": 0},
        {"declared": -1},
        {"declared": float("inf")},
    ],
)
def test_a_number_out_of_range_is_a_mistake_of_the_caller(wrong: dict[str, float]) -> None:
    given = {"instances": 1, "seconds": 60, "declared": 1, **wrong}
    with pytest.raises(ValueError, match=r"cost nothing|amount|zero"):
        estimate("g6e.xlarge", region=HERE, **given)  # type: ignore[arg-type]
