"""Packaged catalogs of providers: facts that are dated and sourced, and the seam a new provider comes in by."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from accelbench_assets.errors import UsageError
from accelbench_assets.pricing import catalog, providers
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.snapshot import price_points
from accelbench_assets.settings import load_settings
from accelbench_assets.settings_groups import REGIONS, PricesSettings

HEADER = ",".join(catalog.COLUMNS)
DAY = date(2026, 11, 21)


@pytest.mark.parametrize(
    ("provider", "instance", "usd", "known"),
    [
        ("runpod", "1x_H100-SXM-80GB", "2.69", datetime(2025, 7, 1, tzinfo=UTC)),
        ("runpod", "2x_A100-80GB_SECURE", "2.78", datetime(2026, 1, 1, tzinfo=UTC)),
        ("lambda", "gpu_8x_h100_sxm5", "31.92", datetime(2026, 1, 1, tzinfo=UTC)),
        ("aws-sagemaker", "ml.inf2.48xlarge", "15.58", datetime(2025, 4, 1, tzinfo=UTC)),
    ],
)
def test_packaged_prices_of_other_providers(provider: str, instance: str, usd: str, known: datetime) -> None:
    (point,) = [p for p in catalog.catalog(provider) if p.instance_type == instance]
    assert point.effective_usd_per_hour == Decimal(usd)
    assert point.fetched_at == point.effective_from == known  # never newer than the source itself says
    assert "(as of 20" in (point.source or "")
    (row,) = [
        r
        for r in price_points(DAY).to_pylist()
        if (r["provider"], r["instance_type"]) == (provider, instance)
    ]
    assert row["usd_per_hour"] == Decimal(usd)


def test_every_packaged_row_has_a_source_a_date_and_a_hash() -> None:
    points = providers.packaged_points()
    assert {p.provider for p in points} == set(providers.PROVIDERS)
    for point in points:
        assert point.source
        assert point.fetched_at is not None
        assert len(point.source_sha256 or "") == 64
        assert (point.effective_usd_per_hour is None) == (point.missing_reason is not None)
    assert len({p.key for p in points}) == len(points)


def test_a_fact_of_tomorrow_is_not_in_yesterdays_snapshot() -> None:
    early = price_points(date(2025, 6, 1)).to_pylist()
    assert {r["provider"] for r in early if r["usd_per_hour"] is not None} == {"aws-sagemaker"}
    (row,) = [r for r in early if (r["instance_type"], r["tier"]) == ("g6e.xlarge", "on_demand")]
    assert "accelbench prices refresh" in row["missing_reason"]


def test_a_new_provider_is_a_catalog_and_a_line(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{HEADER}\nhuge-1,zone-9,7.77,X,1,,,2026-10,a test,\nhuge-2,,,X,2,,,2026-10,a test,sold out\n"

    def packaged() -> tuple[Point, ...]:
        return tuple(catalog.parse("newcomer", text, "newcomer.csv"))

    monkeypatch.setattr(
        providers, "PROVIDERS", {**providers.PROVIDERS, "newcomer": providers.Provider(packaged)}
    )
    found = {r["instance_type"]: r for r in price_points(DAY).to_pylist() if r["provider"] == "newcomer"}
    assert found["huge-1"]["usd_per_hour"] == Decimal("7.77")
    assert (found["huge-2"]["region"], found["huge-2"]["missing_reason"]) == ("unstated", "sold out")
    assert list(providers.PROVIDERS["newcomer"].units(PricesSettings(aws="bulk"))) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,,free,X,1,,,2026,s,", "row a, field usd_per_hour: 'free'"),
        ("a,,0,X,1,,,2026,s,", "field usd_per_hour"),
        ("a,,-1,X,1,,,2026,s,", "field usd_per_hour"),
        ("a,,,X,1,,,2026,s,", "field missing_reason"),
        ("a,,1,X,1,,,2026,s,why", "field missing_reason"),
        ("a,,1,X,1,,,July,s,", "field as_of"),
        ("a,,1,X,1,,,2026-13,s,", "field as_of"),
        ("a,,1,X,1,,,2026,,", "field source"),
        (",,1,X,1,,,2026,s,", "field instance_type"),
        ("a,,1,X,1,,,2026", "field columns"),
        ("a,,1,X,1,,,2026,s,\na,,2,X,1,,,2026,s,", "given twice"),
    ],
)
def test_a_wrong_catalog_is_refused_by_row_and_field(line: str, says: str) -> None:
    with pytest.raises(catalog.CatalogError, match=says):
        catalog.parse("x", f"{HEADER}\n{line}\n", "x.csv")


def test_a_missing_catalog_and_a_wrong_header_are_refused() -> None:
    with pytest.raises(catalog.CatalogError, match=r"nobody\.csv cannot be read"):
        catalog.catalog("nobody")
    with pytest.raises(catalog.CatalogError, match="field header"):
        catalog.parse("x", "a,b\n", "x.csv")


def test_nine_regions_and_nothing_asked_by_default() -> None:
    assert len(set(REGIONS)) == 9
    assert PricesSettings().aws == "off"
    assert [u for one in providers.PROVIDERS.values() for u in one.units(PricesSettings())] == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("aws", "always", "off|auto|api|bulk"), ("regions", "[]", "at least 1"), ("timeout_s", "0", "than 0")],
)
@pytest.mark.usefixtures("home")
def test_a_setting_of_prices_that_cannot_be_is_refused_by_name(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELBENCH_PRICES__{name.upper()}", value)
    with pytest.raises(UsageError, match=rf"Setting prices\.{name}: .*{re.escape(says)}"):
        load_settings()
