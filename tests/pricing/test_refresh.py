"""Snapshots from real requests to a server that speaks as AWS does: what is kept, what survives a failure, what is
held back, and what is asked again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import raw, refresh, store
from accelbench_assets.pricing.aws.clients import client
from accelbench_assets.pricing.aws.reading import Reading
from accelbench_assets.pricing.points import EC2_TIERS, Point
from accelbench_assets.pricing.refresh import Report
from accelbench_assets.settings_groups import PricesSettings
from tests.pricing.price_server import HOME, Prices

P5 = "p5.48xlarge"
NOW = datetime.now(UTC)  # read once, so that midnight cannot come in between
TODAY = NOW.date()
HERE = "local-1a2b3c4d"


def take(lake: Lake, day: date, sources: PricesSettings, **options: Any) -> Report:
    return refresh.take(lake, day, sources, **{"now": NOW, **options})


def rows(report: Report, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in report.table.to_pylist() if all(r[k] == v for k, v in wanted.items())]


def known(lake: Lake, day: date = TODAY) -> dict[tuple[str, ...], Point]:
    return {(p.region, p.instance_type, p.tier): p for p in store.known_on(lake.storage, day)}


def test_every_tier_by_the_api_with_its_answer_kept(lake: Lake, prices: Prices) -> None:
    report = take(lake, TODAY, prices.settings(aws="api"))
    assert not report.failed, [one.sentence for one in report.failed]
    assert {service for service, _ in prices.asked} == {"pricing", "savingsplans", "ec2"}
    assert [*report.impossible, *report.at_odds, *report.jumps] == []
    found = rows(report, instance_type=P5, provider="aws", missing_reason=None)
    counted = {tier: sum(r["tier"] == tier for r in found) for tier in EC2_TIERS}
    assert counted == {
        **{"on_demand": 1, "reserved_1y": 6, "reserved_3y": 6, "savings_1y": 6, "savings_3y": 6},
        **{"spot": 2, "capacity_block": 1},
    }
    assert len(rows(report, instance_type=f"ml.{P5}", missing_reason=None)) == 1 + 6
    for row in found:
        kept = raw.read(lake.storage, row["source_sha256"])
        assert f'"{P5}"' in kept.decode().replace("\\", "")
        assert json.loads(kept)["operation"] in row["source"]
        assert row["fetched_at"].date() == TODAY
    # What AWS sells no price of says so, and when it was asked.
    (row,) = rows(report, instance_type="g6e.xlarge", tier="capacity_block")
    assert row["missing_reason"] == f"no capacity block is offered in {HOME}"
    assert row["fetched_at"] is not None


def test_the_public_files_give_the_same_prices_as_the_api(lake: Lake, prices: Prices, tmp_path: Any) -> None:
    other = Lake.open((tmp_path / "other").as_uri())
    api = take(lake, TODAY, prices.settings(aws="api"))
    files = take(other, TODAY, prices.settings())
    names = (
        "provider",
        "instance_type",
        "tier",
        "payment_option",
        "offering_class",
        "usd_per_hour",
        "upfront_usd",
    )

    def told(report: Report) -> set[tuple[Any, ...]]:
        return {
            tuple(r[n] for n in names)
            for r in report.table.to_pylist()
            if r["tier"] not in ("spot", "capacity_block")
            and r["fetched_at"]
            and r["fetched_at"].date() == TODAY
        }

    assert told(files) == told(api)
    assert (
        len([row for row in told(files) if row[-2] is not None]) == 25 + 3 + 8 + 48 + 18
    )  # p5, g6e, ml.p5, other types
    (row,) = rows(files, instance_type=P5, tier="on_demand", region=HOME)
    kept = raw.read(other.storage, row["source_sha256"]).decode()
    about = json.loads(kept.splitlines()[0].removeprefix("# excerpt of "))
    assert about["url"].endswith(f"/{HOME}/index.csv")
    assert about["bytes"] > 10_000
    assert "SYNP5ONDEMAND000" in kept
    (blank,) = rows(files, instance_type=P5, tier="spot")
    assert (
        "accelbench prices refresh --provider aws --region us-east-1 --source api" in blank["missing_reason"]
    )
    assert blank["fetched_at"] is None


def test_a_failed_region_keeps_its_last_good_prices_and_says_so(lake: Lake, prices: Prices) -> None:
    first = NOW - timedelta(days=1)
    take(lake, first.date(), prices.settings(HOME, "eu-west-1"), now=first)
    prices.refuse["bulk", "eu-west-1"] = (503, "")
    prices.changed["77.7700000000"] = "78.7800000000"
    report = take(lake, TODAY, prices.settings(HOME, "eu-west-1"))
    assert {one.unit for one in report.failed} == {
        f"{provider} eu-west-1 {what}"
        for provider in ("aws", "aws-sagemaker")
        for what in ("price list", "savings plans")
    }
    assert all("503" in (one.error or "") and one.last_good == first for one in report.failed)
    assert "kept as of" in report.failed[0].sentence
    (stale,) = rows(report, region="eu-west-1", instance_type=P5, tier="on_demand")
    (fresh,) = rows(report, region=HOME, instance_type=P5, tier="on_demand")
    assert (stale["usd_per_hour"], stale["fetched_at"]) == (Decimal("77.77"), first)
    assert fresh["usd_per_hour"] == Decimal("78.78")
    assert fresh["fetched_at"].date() == TODAY
    assert len(rows(report, region="eu-west-1", instance_type=P5, missing_reason=None)) == 1 + 12 + 12


def test_what_was_never_known_says_that_asking_failed_and_how_to_ask_again(
    lake: Lake, prices: Prices
) -> None:
    prices.refuse["bulk", HOME] = (403, "")
    report = take(lake, TODAY, prices.settings())
    (row,) = rows(report, instance_type=P5, tier="reserved_1y")
    assert f"{TODAY}: asking failed" in row["missing_reason"]
    assert "403" in row["missing_reason"]
    assert "`accelbench prices refresh --provider aws --region us-east-1`" in row["missing_reason"]
    (packaged,) = rows(report, instance_type=P5, tier="on_demand")
    assert packaged["usd_per_hour"] == Decimal("55.04")  # the packaged price stands, with its own date
    assert packaged["fetched_at"].date() == date(2026, 7, 20)
    assert report.outcomes[0].last_good is None or report.outcomes[0].last_good.date() == date(2026, 7, 20)


@pytest.mark.parametrize(
    ("service", "code", "says"),
    [
        ("pricing", "AccessDeniedException", "pricing:GetProducts"),
        ("savingsplans", "UnrecognizedClientException", "not valid for AWS"),
        ("ec2", "UnauthorizedOperation", "ec2:DescribeSpotPriceHistory"),
        ("ec2", "OptInRequired", "not enabled in this account"),
    ],
)
def test_a_refusal_names_what_is_missing(
    lake: Lake, prices: Prices, service: str, code: str, says: str
) -> None:
    prices.refuse[service, HOME] = (400, code)
    report = take(lake, TODAY, prices.settings(aws="api"))
    said = [one.sentence for one in report.failed]
    assert said
    assert all(code in sentence and says in sentence for sentence in said)
    assert not [s for s in said if "synthetic-secret" in s]
    assert len(said) < len(report.outcomes)  # the others were not held up


def test_a_type_that_a_region_does_not_sell_is_an_answer(lake: Lake, prices: Prices) -> None:
    prices.refuse["ec2", HOME] = (400, "InvalidParameterValue")
    report = take(lake, TODAY, prices.settings(aws="api"))
    (row,) = rows(report, instance_type=P5, tier="capacity_block")
    assert row["missing_reason"] == "no capacity block is offered in us-east-1"


def test_without_credentials_the_api_says_what_to_do(
    lake: Lake, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    report = take(lake, TODAY, prices.settings(aws="api"))
    assert len(report.failed) == len(report.outcomes)
    assert "no credentials" in report.failed[0].sentence
    assert "--source bulk" in report.failed[0].sentence
    assert not prices.asked
    auto = take(lake, TODAY, prices.settings(aws="auto"))
    assert not auto.failed
    assert {service for service, _ in prices.asked} == {"bulk"}


def test_the_lakes_own_endpoint_is_not_asked_for_prices(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert client("pricing", HOME, 1).meta.endpoint_url == prices.url
    monkeypatch.delenv("AWS_ENDPOINT_URL_PRICING")
    assert client("pricing", HOME, 1).meta.endpoint_url == "https://api.pricing.us-east-1.amazonaws.com"


@pytest.mark.parametrize("length", [200, 2000])  # within the index, within the files
def test_a_file_that_breaks_off_is_no_price_list(lake: Lake, prices: Prices, length: int) -> None:
    prices.cut = length
    report = take(lake, TODAY, prices.settings())
    assert len(report.failed) == len(report.outcomes)
    assert not rows(report, tier="reserved_1y", missing_reason=None)
    assert store.known_on(lake.storage, TODAY)


def test_nothing_is_asked_for_another_day_when_off_or_twice_a_day(lake: Lake, prices: Prices) -> None:
    assert take(lake, TODAY - timedelta(days=2), prices.settings()).outcomes == []
    assert take(lake, TODAY, PricesSettings()).outcomes == []
    assert take(lake, TODAY, prices.settings(), providers=()).outcomes == []
    assert not prices.asked
    first = take(lake, TODAY, prices.settings())
    asked = len(prices.asked)
    second = take(lake, TODAY, prices.settings())
    assert len(prices.asked) == asked
    assert second.fresh == [one.unit for one in first.outcomes]
    assert rows(second, instance_type=P5) == [
        {
            **row,
            "snapshot_id": second.table["snapshot_id"][0].as_py(),
            "price_point_id": got["price_point_id"],
        }
        for row, got in zip(rows(first, instance_type=P5), rows(second, instance_type=P5), strict=True)
    ]
    assert take(lake, TODAY, prices.settings(), again=True).outcomes
    assert len(prices.asked) == 2 * asked


def test_prices_of_a_day_are_carried_on_and_a_past_day_knows_nothing_of_the_future(
    lake: Lake, prices: Prices
) -> None:
    before = NOW - timedelta(days=3)
    take(lake, before.date(), prices.settings(), now=before, declared=((HERE, "0.25"),))
    today = take(lake, TODAY, PricesSettings())
    (row,) = rows(today, instance_type=P5, tier="on_demand")
    assert (row["usd_per_hour"], row["fetched_at"]) == (Decimal("77.77"), before)
    (mine,) = rows(today, instance_type=HERE)
    assert (mine["tier"], mine["usd_per_hour"]) == ("declared", Decimal("0.25"))
    past = take(lake, before.date() - timedelta(days=1), PricesSettings())
    (row,) = rows(past, instance_type=P5, tier="on_demand")
    assert row["usd_per_hour"] == Decimal("55.04")
    assert not rows(past, instance_type=HERE)


def test_an_impossible_price_is_held_back_and_the_last_good_one_stays(lake: Lake, prices: Prices) -> None:
    first = NOW - timedelta(days=1)
    take(lake, first.date(), prices.settings(), now=first)
    prices.changed["77.7700000000"] = "0.0000000000"
    prices.changed['"3.3300000000"'] = '"1000.0100000000"'
    report = take(lake, TODAY, prices.settings())
    assert len(report.impossible) == 2
    assert "aws us-east-1 p5.48xlarge on_demand: the source says 0 USD an hour" in report.impossible[0]
    (row,) = rows(report, instance_type=P5, tier="on_demand")
    assert (row["usd_per_hour"], row["fetched_at"]) == (Decimal("77.77"), first)


def test_an_impossible_price_of_something_new_is_no_price(lake: Lake, prices: Prices) -> None:
    prices.changed["66.6600000000"] = "1066.6600000000"
    report = take(lake, TODAY, prices.settings())
    (row,) = rows(
        report, instance_type=P5, tier="reserved_1y", payment_option="no_upfront", offering_class="standard"
    )
    assert row["usd_per_hour"] is None
    assert row["effective_usd_per_hour"] is None
    assert row["missing_reason"] == "the source says 1066.66 USD an hour, which cannot be"
    assert len(rows(report, instance_type=P5, tier="reserved_1y", missing_reason=None)) == 5


def test_prices_at_odds_and_jumps_are_kept_and_told(lake: Lake, prices: Prices) -> None:
    first = NOW - timedelta(days=1)
    take(lake, first.date(), prices.settings(), now=first)
    prices.changed["66.6600000000"] = "80.0000000000"
    prices.changed['"60.50"'] = '"60.51"'
    report = take(lake, TODAY, prices.settings())
    assert report.at_odds == [
        "aws us-east-1 p5.48xlarge reserved_1y no_upfront standard: 80 against 77.77 on demand"
    ]
    assert report.jumps == ["aws us-east-1 p5.48xlarge reserved_1y no_upfront standard: 66.66 to 80 (+20 %)"]
    assert rows(report, tier="reserved_1y", usd_per_hour=Decimal(80))
    again = take(lake, TODAY, PricesSettings())
    assert again.jumps == report.jumps  # a second snapshot of the day is still compared with the day before


def test_an_answer_is_kept_once_and_before_the_prices(lake: Lake, prices: Prices) -> None:
    take(lake, TODAY, prices.settings())
    kept = lake.storage.list(raw.FOLDER)
    assert kept
    tomorrow = NOW + timedelta(days=1)
    take(lake, tomorrow.date(), prices.settings(), now=tomorrow)
    assert lake.storage.list(raw.FOLDER) == kept  # word for word the same answers
    hashes = {p.source_sha256 for p in store.known_on(lake.storage, TODAY)}
    assert {key.rsplit("/", 1)[-1].split(".")[0] for key in kept} <= hashes


def test_two_writers_of_one_day_lose_nothing(lake: Lake, prices: Prices) -> None:
    """A price is declared while a refresh is under way: the next snapshot knows both, whoever had the last word."""
    start = NOW
    one = Lake.open(lake.url)
    take(one, TODAY, PricesSettings(), declared=((HERE, "0.5"),), now=start + timedelta(microseconds=5))
    (first,) = lake.storage.list(store.FOLDER)
    content = lake.storage.read(first)
    lake.storage.delete(first)  # the other did not see it
    take(lake, TODAY, prices.settings(), now=start)
    lake.storage.write(first, content)
    found = known(lake)
    assert found["unstated", HERE, "declared"].usd_per_hour == Decimal("0.5")
    assert found[HOME, P5, "on_demand"].usd_per_hour == Decimal("77.77")
    third = take(lake, TODAY, PricesSettings())
    assert rows(third, instance_type=HERE, tier="declared")
    assert rows(third, instance_type=P5, tier="on_demand", usd_per_hour=Decimal("77.77"))


def test_the_last_word_of_a_day_is_the_greatest_id(lake: Lake, prices: Prices) -> None:
    ids = [
        take(lake, TODAY, source, declared=declared, now=NOW + timedelta(seconds=n))
        .table["snapshot_id"][0]
        .as_py()
        for n, (source, declared) in enumerate(
            [
                (PricesSettings(), ()),
                (prices.settings(), ()),
                (PricesSettings(), ((HERE, "1"),)),
                (PricesSettings(), ((HERE, "2"),)),
            ]
        )
    ]
    assert ids == sorted(ids)
    assert len(set(ids)) == 4
    last = store.latest(lake.storage, TODAY)
    assert {row["snapshot_id"] for row in last} == {ids[-1]}
    assert [r["usd_per_hour"] for r in last if r["instance_type"] == HERE] == [Decimal(2)]
    assert store.latest(lake.storage, TODAY - timedelta(days=1)) == []


def test_a_damaged_snapshot_is_named(lake: Lake) -> None:
    lake.storage.write(f"{store.FOLDER}/date={TODAY}/part-0.parquet", b"nonsense")
    with pytest.raises(Exception, match=r"part-0\.parquet cannot be read"):
        store.known_on(lake.storage, TODAY)


def test_an_interrupt_does_not_wait_for_an_answer() -> None:
    """A price list is a gigabyte: nobody who interrupts waits for the rest of it."""
    code = (
        "import sys, time, types\n"
        "from datetime import datetime, UTC\n"
        "from accelbench_assets.pricing.refresh import _ask\n"
        "def ask(at): print('asked', flush=True); time.sleep(600)\n"
        "_ask([types.SimpleNamespace(name='slow', ask=ask)], datetime.now(UTC))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "asked\n"
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
        finally:
            child.kill()
    assert "KeyboardInterrupt" in said


def test_nothing_more_is_asked_after_an_interrupt() -> None:
    """A process that lives on, such as Dagster's, does not go on with the other regions behind its back."""
    go_on, asked = threading.Event(), []

    def ask(at: datetime) -> Reading:
        asked.append(at)
        if len(asked) == refresh.THREADS:
            os.kill(os.getpid(), signal.SIGINT)
        assert go_on.wait(60)
        return Reading()

    before = set(threading.enumerate())
    units = [SimpleNamespace(name=f"unit {n}", ask=ask) for n in range(5 * refresh.THREADS)]
    with pytest.raises(KeyboardInterrupt):
        refresh._ask(units, NOW)  # type: ignore[arg-type]
    mine = set(threading.enumerate()) - before
    assert len(mine) == refresh.THREADS
    go_on.set()
    for thread in mine:
        thread.join(60)
    assert len(asked) == refresh.THREADS
