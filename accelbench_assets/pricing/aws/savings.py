"""Savings Plans rates by DescribeSavingsPlansOfferingRates.

Belongs here: the request, its pages, and reading a rate. Does not belong here: the bulk file of rates (``bulk``).

A rate is the discounted price of an hour of the machine. The payment option says when the commitment is paid, and is
already in the rate: there is no further upfront amount, and the effective price is the rate itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from accelbench_assets.pricing.aws.clients import HOME_REGION, client, translated
from accelbench_assets.pricing.aws.items import PAYMENT, usage_instance
from accelbench_assets.pricing.aws.reading import PriceSourceError, Reading, Stamp, mapping, text
from accelbench_assets.pricing.points import AWS, SAGEMAKER, TERM_HOURS, Group, Point, money
from accelbench_assets.pricing.raw import RawAnswer

PLANS = {"Compute": "compute", "EC2Instance": "ec2_instance", "SageMaker": "sagemaker"}
SECONDS = {31_536_000: "1y", 94_608_000: "3y"}
PRODUCT = {AWS: "EC2", SAGEMAKER: "SageMaker"}
PAGE = 1000
MAX_PAGES = 500


def fetch_savings(
    provider: str, region: str, wanted: Iterable[str], *, at: datetime, timeout_s: float
) -> Reading:
    """Savings Plans rates of the *wanted* types in *region*, asked at *at* (UTC). Raises ``PriceSourceError``."""
    names = sorted(wanted)
    request: dict[str, Any] = {
        "products": [PRODUCT[provider]],
        "savingsPlanTypes": ["Compute", "EC2Instance"] if provider == AWS else ["SageMaker"],
        "filters": [{"name": "region", "values": [region]}, {"name": "instanceType", "values": names}],
        "maxResults": PAGE,
    }
    if provider == AWS:
        request["filters"] += [
            {"name": "productDescription", "values": ["Linux/UNIX"]},
            {"name": "tenancy", "values": ["shared"]},
        ]
    api = client("savingsplans", HOME_REGION, timeout_s)
    results: list[Any] = []
    token = ""
    for _ in range(MAX_PAGES):
        with translated("savingsplans", HOME_REGION):
            page = api.describe_savings_plans_offering_rates(
                **request, **({"nextToken": token} if token else {})
            )
        results += page.get("searchResults", [])
        token = page.get("nextToken") or ""
        if not token:
            break
    else:
        raise PriceSourceError(f"AWS savingsplans gives more than {MAX_PAGES} pages for {region}.")
    document = {
        "operation": "DescribeSavingsPlansOfferingRates",
        "request": request,
        "searchResults": results,
    }
    raw = RawAnswer(json.dumps(document, sort_keys=True, default=str).encode())
    stamp = Stamp(at, f"AWS Savings Plans API DescribeSavingsPlansOfferingRates {region}", raw.sha256)
    reading = read_rates(results, provider=provider, region=region, wanted=frozenset(names), stamp=stamp)
    reading.raw.append(raw)
    return reading


def read_rates(
    results: Iterable[object], *, provider: str, region: str, wanted: frozenset[str], stamp: Stamp
) -> Reading:
    """The points of the API's search results; other regions, systems, tenancies and unused capacity are passed over."""
    reading = Reading()
    prices: dict[Any, Point] = {}
    for result in results:
        rate = mapping(result)
        properties = {
            text(mapping(p).get("name")): text(mapping(p).get("value")) for p in _list(rate.get("properties"))
        }
        offering = mapping(rate.get("savingsPlanOffering"))
        instance = usage_instance(text(rate.get("usageType")), provider)
        if instance not in wanted or properties.get("region", region) != region:
            continue
        if properties.get("productDescription", "Linux/UNIX") != "Linux/UNIX":
            continue
        if properties.get("tenancy", "shared").lower() != "shared":
            continue
        if provider == AWS and text(rate.get("operation")) not in ("", "RunInstances"):  # as in the files
            continue
        duration = offering.get("durationSeconds")
        add_rate(
            reading,
            prices,
            provider=provider,
            region=region,
            instance=instance,
            years=SECONDS.get(duration) if isinstance(duration, int) else None,
            plan=PLANS.get(text(offering.get("planType"))),
            payment=PAYMENT.get(text(offering.get("paymentOption")).lower()),
            unit=text(rate.get("unit")),
            currency=text(offering.get("currency")) or "USD",
            rate=rate.get("rate"),
            sku=text(offering.get("offeringId")) or None,
            since=None,
            stamp=stamp,
        )
    reading.points = list(prices.values())
    return reading.settle()


def add_rate(
    reading: Reading,
    prices: dict[Any, Point],
    *,
    provider: str,
    region: str,
    instance: str,
    years: str | None,
    plan: str | None,
    payment: str | None,
    unit: str,
    currency: str,
    rate: object,
    sku: str | None,
    since: datetime | None,
    stamp: Stamp,
) -> None:
    """Add one rate to *prices*; refuse its group if it cannot be read, note it if it is of an unknown kind."""
    if not years or not plan or not payment:
        reading.odd.add(f"savings plan {plan or '?'} {payment or '?'} of {years or '?'}")
        return
    group = Group(provider, region, instance, f"savings_{years}")
    price: Decimal | None = money(rate)
    if unit != "Hrs" or currency != "USD" or price is None:
        reading.refuse(
            group,
            f"a rate in USD an hour was expected, the answer says {rate!r} {currency} per {unit or '?'}",
        )
        return
    point = Point(
        *group,
        payment_option=payment,
        offering_class=plan,
        usd_per_hour=price,
        term_hours=TERM_HOURS[years],
        sku=sku,
        effective_from=since,
        **stamp.fields(provider),
    )
    before = prices.setdefault(point.key, point)
    if before.usd_per_hour != price:
        reading.refuse(group, f"two rates differ: {before.usd_per_hour} and {price}")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
