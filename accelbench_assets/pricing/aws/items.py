"""Reading one product of an AWS price list: its on-demand price and its reserved terms.

Belongs here: the published shape of a price list's item (``product``, ``terms.OnDemand``, ``terms.Reserved``,
``priceDimensions``, ``termAttributes``), and which products are the machine we mean.
Does not belong here: getting the list (``products``, ``bulk``).

A list holds many products of one instance type: other systems, tenancies, installed software, licences brought along,
reservations used (0.00) or unused, and capacity blocks at 0.00. Only Linux on shared tenancy, in use, with nothing
installed, on the on-demand market counts, billed as the plain hour (``BoxUsage``). A product that does not say so much
of itself does not count. What is that product and cannot be read is refused by group; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from accelbench_assets.pricing.aws.reading import Reading, Stamp, mapping, text
from accelbench_assets.pricing.points import (
    AWS,
    ON_DEMAND,
    SAGEMAKER,
    TERM_HOURS,
    Group,
    Point,
    money,
    utc,
)

EC2_SERVICE, SAGEMAKER_SERVICE = "AmazonEC2", "AmazonSageMaker"
HOURLY, ONCE = "Hrs", "Quantity"
PAYMENT = {
    "no upfront": "no_upfront",
    "partial upfront": "partial_upfront",
    "all upfront": "all_upfront",
}
CLASSES = ("standard", "convertible")
LEASES = {"1yr": "1y", "1 yr": "1y", "3yr": "3y", "3 yr": "3y"}

USAGE = {AWS: "BoxUsage:", SAGEMAKER: "Host:"}
"""What the usage type of a plain hour has before the instance type, after the region's prefix."""

# Attribute -> what it must be. Those of NEEDED must be there; another that a product lacks says nothing against it.
EC2_ATTRIBUTES = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "preInstalledSw": "NA",
    "marketoption": "OnDemand",
    "operation": "RunInstances",
    "locationType": "AWS Region",
}
SAGEMAKER_ATTRIBUTES = {"component": "Hosting", "locationType": "AWS Region"}
NEEDED = {
    EC2_SERVICE: ("operatingSystem", "tenancy", "capacitystatus", "preInstalledSw", "operation"),
    # The upfront fee of a training plan has no component, and looks like a low price.
    SAGEMAKER_SERVICE: ("component",),
}
"""What tells a plain hour from its neighbours, and stands in every such product that AWS publishes."""


def read_items(
    items: Iterable[object], *, service: str, region: str, wanted: frozenset[str], stamp: Stamp
) -> Reading:
    """The points of all *items* of *service* for the *wanted* instance types in *region*.

    Two products that both fit and differ in price refuse the group: which one is meant cannot be told.
    """
    reading = Reading()
    prices: dict[tuple[Any, ...], Point] = {}
    for item in items:
        document = mapping(item)
        instance = _instance(mapping(document.get("product")), service, region)
        if instance not in wanted:
            continue
        for point in _points(document, service, region, instance, stamp, reading):
            before = prices.setdefault(point.key, point)
            if (before.usd_per_hour, before.upfront_usd) != (point.usd_per_hour, point.upfront_usd):
                reading.refuse(point.group, f"two products ({before.sku}, {point.sku}) have different prices")
    reading.points = list(prices.values())
    return reading.settle()


def _instance(product: Mapping[str, Any], service: str, region: str) -> str:
    """The instance type a product is the plain hour of; empty for every other product."""
    attributes = mapping(product.get("attributes"))
    family = text(product.get("productFamily"))
    if text(attributes.get("regionCode")) not in ("", region):
        return ""
    if service == EC2_SERVICE:
        required, name = EC2_ATTRIBUTES, text(attributes.get("instanceType"))
        plain = family in ("", "Compute Instance", "Compute Instance (bare metal)")
        usage = text(attributes.get("usagetype"))
        plain = plain and (not usage or usage_instance(usage, AWS) == name)
        plain = plain and text(attributes.get("licenseModel")).lower() != "bring your own license"
    else:
        required, name = SAGEMAKER_ATTRIBUTES, text(attributes.get("instanceName"))
        plain = family in ("", "ML Instance")
    fits = all(text(attributes.get(a)) in ("", value) for a, value in required.items())
    return name if plain and fits and all(text(attributes.get(a)) for a in NEEDED[service]) else ""


def usage_instance(usage_type: str, provider: str) -> str:
    """``USE2-BoxUsage:p5.48xlarge`` -> ``p5.48xlarge``; empty for any usage but the plain hour of an instance."""
    head, mark, instance = usage_type.partition(USAGE[provider])
    return instance if mark and (not head or head.endswith("-")) else ""


def _points(
    document: Mapping[str, Any], service: str, region: str, instance: str, stamp: Stamp, reading: Reading
) -> Iterable[Point]:
    terms = mapping(document.get("terms"))
    provider = AWS if service == EC2_SERVICE else SAGEMAKER
    sku = text(mapping(document.get("product")).get("sku")) or None
    for term in mapping(terms.get("OnDemand")).values():
        group = Group(provider, region, instance, ON_DEMAND)
        if _later(mapping(term), stamp):
            reading.odd.add(f"on-demand price of {instance} that holds only later")
            continue
        amounts = _amounts(mapping(term), group, reading)
        if amounts is None:
            continue
        if set(amounts) != {HOURLY}:
            reading.refuse(group, f"an on-demand term has {_kinds(amounts)} instead of one hourly price")
            continue
        yield _point(group, mapping(term), sku, stamp, usd_per_hour=amounts[HOURLY])
    if service != EC2_SERVICE:
        return
    for term in mapping(terms.get("Reserved")).values():
        yield from _reserved(mapping(term), region, instance, sku, stamp, reading)


def _reserved(
    term: Mapping[str, Any], region: str, instance: str, sku: str | None, stamp: Stamp, reading: Reading
) -> Iterable[Point]:
    attributes = mapping(term.get("termAttributes"))
    lease = LEASES.get(text(attributes.get("LeaseContractLength")).lower())
    payment = PAYMENT.get(text(attributes.get("PurchaseOption")).lower())
    offering = text(attributes.get("OfferingClass")).lower()
    if lease is None or payment is None or offering not in CLASSES:
        said = (attributes.get(name) for name in ("LeaseContractLength", "PurchaseOption", "OfferingClass"))
        reading.odd.add(f"reserved term {' '.join(text(part) or '?' for part in said)}")
        return
    group = Group(AWS, region, instance, f"reserved_{lease}")
    if _later(term, stamp):
        reading.odd.add(f"reserved price of {instance} that holds only later")
        return
    amounts = _amounts(term, group, reading)
    if amounts is None:
        return
    hourly, upfront = amounts.get(HOURLY), amounts.get(ONCE)
    complete = {
        "no_upfront": hourly is not None and not upfront,
        "partial_upfront": bool(hourly) and bool(upfront),
        "all_upfront": upfront is not None and not hourly,
    }
    if not complete[payment]:
        reading.refuse(group, f"{payment} with {_kinds(amounts)}")
        return
    yield _point(
        group,
        term,
        sku,
        stamp,
        usd_per_hour=hourly if hourly is not None else Decimal(0),
        upfront_usd=upfront if upfront is not None else Decimal(0),
        term_hours=TERM_HOURS[lease],
        payment_option=payment,
        offering_class=offering,
    )


def _later(term: Mapping[str, Any], stamp: Stamp) -> bool:
    """Whether a term is announced for after the moment of asking: not yet a price."""
    since = utc(term.get("effectiveDate"))
    return since is not None and since > stamp.fetched_at


def _point(group: Group, term: Mapping[str, Any], sku: str | None, stamp: Stamp, **fields: Any) -> Point:
    since = utc(term.get("effectiveDate"))
    columns: dict[str, Any] = {"sku": sku, "effective_from": since, **fields, **stamp.fields(group.provider)}
    return Point(*group, **columns)


def _amounts(term: Mapping[str, Any], group: Group, reading: Reading) -> dict[str, Decimal] | None:
    """Unit -> USD of a term's dimensions; ``None`` after refusing the group."""
    found: dict[str, Decimal] = {}
    for dimension in mapping(term.get("priceDimensions")).values():
        unit = text(mapping(dimension).get("unit"))
        unit = {"hrs": HOURLY, "quantity": ONCE}.get(unit.lower(), unit)
        price = mapping(mapping(dimension).get("pricePerUnit"))
        amount = money(price["USD"]) if "USD" in price else None
        if amount is None:
            said = repr(price["USD"]) if "USD" in price else f"only {', '.join(sorted(price)) or 'nothing'}"
            reading.refuse(group, f"a price in USD was expected, the list says {said}")
            return None
        if unit in found:
            reading.refuse(group, f"several prices by {unit or 'no unit'} in one term")
            return None
        found[unit] = amount
    return found


def _kinds(amounts: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{amount:f} per {unit or '?'}" for unit, amount in amounts.items()) or "no price"
